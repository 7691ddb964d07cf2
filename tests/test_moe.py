"""Mixtures of experts: each token by its own experts, each expert by its own device."""

import functools
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import llamas
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

import star_jax
from star_jax import checkpoint, convert, models
from star_jax.checkpoint import tensor_files
from star_jax.models import moe
from star_jax.models.config import Experts
from star_jax.runtime import placement
from star_jax.runtime.mesh import TENSOR

E, X, D, F = 8, 2, 16, 24
EXPERTS = Experts(
    count=E, per_token=X, intermediate_size=F, renormalized=True, dense_layers=frozenset()
)
FIELDS = llamas.VARIANTS["qwen3-moe"]
CONFIG = tiny.config(hidden_size=D, head_dim=4)


def layer(make: models.WeightMaker, experts: Experts = EXPERTS) -> moe.MoE:
    return moe.MoE(CONFIG, experts, "mlp", make)


def random_layer(experts: Experts = EXPERTS, dtype: str = "float32") -> moe.MoE:
    rng = np.random.default_rng(0)
    return layer(lambda name, shape, axes: jnp.asarray(rng.normal(size=shape), dtype), experts)


def inputs(tokens: int, dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(tokens).normal(size=(tokens, D)), dtype)


def literal(m: moe.MoE, x: jax.Array, own: range = range(E)) -> np.ndarray:
    """What some of the experts add, token by token and expert by expert, in float64."""
    router, gate, up, down = (
        np.asarray(w[...], np.float64)
        for w in (m.router_weight, m.gate_weight, m.up_weight, m.down_weight)
    )
    result = np.zeros(x.shape)
    for t, token in enumerate(np.asarray(x, np.float64)):
        scores = np.exp(router @ token - np.max(router @ token))
        scores /= scores.sum()
        chosen = np.argsort(-scores)[: m.experts.per_token]
        whole = scores[chosen].sum() if m.experts.renormalized else 1.0
        for e in set(chosen) & set(own):
            g = gate[e] @ token
            y = down[e] @ (g / (1 + np.exp(-g)) * (up[e] @ token))
            result[t] += scores[e] / whole * y
    return result


def on_mesh(m: moe.MoE, x: jax.Array, ranks: int, *, summed: bool) -> np.ndarray:
    """The layer on devices that share its experts: what each of them adds, or the sum."""
    mesh = star_jax.make_mesh(tensor=ranks)
    specs = layer(lambda name, shape, axes: placement.placement_of(shape, axes, mesh).sharding.spec)

    def local(m: moe.MoE, x: jax.Array) -> jax.Array:
        return m(x[None], TENSOR)[0] if summed else m._own(x, TENSOR)

    out = P() if summed else P(TENSOR)
    f = jax.shard_map(local, mesh=mesh, in_specs=(specs, P()), out_specs=out, check_vma=False)
    return np.asarray(jax.jit(f)(m, x))


@functools.cache
def alone() -> Any:
    return jax.jit(lambda m, x: m(x[None], None)[0])


# As few tokens as there are experts for, one round, and several.
@pytest.mark.parametrize("tokens", [1, E // X, E // X + 1, 40, 700])
@pytest.mark.parametrize("renormalized", [True, False])
def test_each_token_is_the_sum_of_its_experts(tokens: int, renormalized: bool) -> None:
    experts = Experts(
        count=E,
        per_token=X,
        intermediate_size=F,
        renormalized=renormalized,
        dense_layers=frozenset(),
    )
    m, x = random_layer(experts), inputs(tokens)
    assert tiny.difference(alone()(m, x), literal(m, x)) < 1e-5


@pytest.mark.parametrize("tokens", [3, 40])
def test_half_precision_is_as_close_as_it_can_be(tokens: int) -> None:
    m, x = random_layer(dtype="bfloat16"), inputs(tokens, "bfloat16")
    assert tiny.difference(alone()(m, x), literal(m, x)) < 2e-2


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_each_device_computes_its_own_experts_and_the_sum_is_whole(tokens: int) -> None:
    m, x, ranks = random_layer(), inputs(tokens), 4
    each = on_mesh(m, x, ranks, summed=False).reshape(ranks, tokens, D)
    for rank, found in enumerate(each):
        own = range(rank * E // ranks, (rank + 1) * E // ranks)
        assert tiny.difference(found, literal(m, x, own)) < 1e-5
    assert tiny.difference(on_mesh(m, x, ranks, summed=True), literal(m, x)) < 1e-5


@pytest.mark.parametrize("tokens", [2, 40, 600])
def test_all_tokens_may_go_to_the_same_experts_and_others_have_none(tokens: int) -> None:
    """What no token is sent to is not in the sum, though it were infinite."""
    m, x = random_layer(), jnp.abs(inputs(tokens))
    router = np.zeros((E, D), np.float32)
    router[5], router[2] = 2.0, 1.0
    m.router_weight[...] = jnp.asarray(router)
    expected = literal(m, x, range(0))
    for e in (5, 2):
        expected = expected + literal(m, x, range(e, e + 1))
    others = [e for e in range(E) if e not in (5, 2)]
    m.up_weight[...] = m.up_weight[...].at[jnp.asarray(others)].set(jnp.inf)
    assert tiny.difference(alone()(m, x), expected) < 1e-5
    assert tiny.difference(on_mesh(m, x, 4, summed=True), expected) < 1e-5


def test_tokens_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal size, and padded where they cannot be; a batch is one after another."""
    monkeypatch.setattr(moe, "_TOKENS", 16)
    m, x = random_layer(), inputs(38)
    found = jax.jit(lambda m, x: m(x.reshape(2, 19, D), None))(m, x)
    assert tiny.difference(found.reshape(38, D), literal(m, x)) < 1e-5


def test_experts_that_cannot_be_divided_are_refused(tmp_path: pathlib.Path) -> None:
    fields = {**FIELDS, "num_experts": 6}
    llamas.write(tmp_path, llamas.build(fields), fields)
    said = "experts=6 cannot be divided over tensor=4 devices"
    with pytest.raises(ValueError, match=said):
        star_jax.Engine.from_pretrained(
            tmp_path, mesh=star_jax.make_mesh(tensor=4), dtype="float32", attention=star_jax.Dense()
        )


def load(directory: pathlib.Path, **axes: Any) -> models.Decoder:
    mesh = star_jax.make_mesh(**axes)
    return checkpoint.load(directory, models.read(directory), mesh=mesh, dtype="float32")


@pytest.mark.parametrize("variant", ["mixtral", "qwen3-moe"])
def test_a_device_reads_its_own_experts_alone(
    variant: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = llamas.VARIANTS[variant]
    llamas.write(tmp_path / "hf", llamas.build(fields), fields)
    sizes: list[int] = []
    read = tensor_files.read

    def count(*args: Any, **kwargs: Any) -> np.ndarray:
        found = read(*args, **kwargs)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(tensor_files, "read", count)
    found = load(tmp_path / "hf", context=2, tensor=4)
    stored = tensor_files.scan(str(tmp_path / "hf")).tensors.values()
    assert sum(sizes) == 4 * sum(int(np.prod(tensor.shape)) for tensor in stored)
    gate = found.layers[0].mlp.gate_weight[...]
    assert {len(shard.data) for shard in gate.addressable_shards} == {len(gate) // 4}

    convert.convert(str(tmp_path / "hf"), str(tmp_path / "converted"))
    for a, b in zip(
        jax.tree.leaves(load(tmp_path / "converted", tensor=2)),
        jax.tree.leaves(load(tmp_path / "hf", tensor=2)),
        strict=True,
    ):
        assert a.sharding == b.sharding
        chex.assert_trees_all_equal(a, b)


def test_an_expert_that_is_missing_is_named(tmp_path: pathlib.Path) -> None:
    fields = llamas.VARIANTS["mixtral"]
    llamas.write(tmp_path, llamas.build(fields), fields)
    tensors = load_file(tmp_path / tensor_files.SINGLE)
    name = "block_sparse_moe.experts.2.w3.weight"
    for i in range(2):
        del tensors[f"model.layers.{i}.{name}"]
    save_file(tensors, tmp_path / tensor_files.SINGLE)
    with pytest.raises(ValueError, match=rf": model\.layers\.0-1\.{name}: missing$"):
        load(tmp_path)
