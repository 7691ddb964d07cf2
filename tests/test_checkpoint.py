"""Checkpoints: what is read, where it goes, and how a broken one is refused."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import chex
import huggingface_hub
import jax
import jax.numpy as jnp
import llamas
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.numpy import load_file, save_file

import star_jax
from star_jax import checkpoint, models
from star_jax.checkpoint import tensor_files
from star_jax.models import Decoder

FIELDS = {**llamas.VARIANTS["llama-3"], "num_attention_heads": 8, "num_key_value_heads": 8}
CONFIG = models.from_dict(FIELDS)
SINGLE, INDEX = tensor_files.SINGLE, tensor_files.INDEX


def arrays(dtype: type = np.float32, **fields: object) -> dict[str, np.ndarray]:
    """Random tensors, under the names and in the shapes of a checkpoint."""
    found: dict[str, np.ndarray] = {}

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        x = np.random.default_rng(len(found)).normal(size=shape)
        if "head" in axes:  # one axis in the file, heads x head dimension
            at = axes.index("head")
            x = x.reshape(*shape[: at - 1], -1, *shape[at + 1 :])
        found[name] = x.astype(dtype)
        return jax.ShapeDtypeStruct(shape, dtype)

    models.build(models.from_dict({**FIELDS, **fields}), make)
    return found


def save(directory: pathlib.Path, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    save_file(tensors, directory / SINGLE)
    return directory


def save_sharded(directory: pathlib.Path, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    weight_map = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        part = {name: x for name, x in tensors.items() if weight_map[name] == file}
        save_file(part, directory / file)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def load(
    directory: pathlib.Path, *, dtype: str = "float32", context: int = 1, tensor: int = 1
) -> Decoder:
    mesh = star_jax.make_mesh(context=context, tensor=tensor)
    return checkpoint.load(directory, CONFIG, mesh=mesh, dtype=dtype)


def named(model: Decoder) -> dict[str, np.ndarray]:
    """The weights by their names in the file."""
    names = jax.tree.leaves(models.build(model.config, lambda name, shape, axes: name))
    return {name: np.asarray(x) for name, x in zip(names, weights(model), strict=True)}


def weights(model: Decoder) -> list[jax.Array]:
    return jax.tree.leaves(model)


def refusal(directory: pathlib.Path, *, tensor: int = 1) -> str:
    with pytest.raises(ValueError, match="checkpoint") as error:
        load(directory, tensor=tensor)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_file_and_many_give_the_same_weights(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = load(save(tmp_path / "one", tensors))
    many = load(save_sharded(tmp_path / "many", tensors))
    assert len(weights(one)) == len(tensors)
    for a, b in zip(weights(one), weights(many), strict=True):
        chex.assert_trees_all_equal(a, b)
    q = tensors["model.layers.1.self_attn.q_proj.weight"]
    chex.assert_trees_all_equal(one.layers[1].attention.q_weight[...].reshape(q.shape), q)
    o = tensors["model.layers.0.self_attn.o_proj.weight"]
    chex.assert_trees_all_equal(one.layers[0].attention.o_weight[...].reshape(o.shape), o)


STORED = [np.float32, np.float16, ml_dtypes.bfloat16]
# Halfway between two values of a narrower dtype, too large for one, too small, and no number.
EDGES = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 65504.0, 65520.0, 1e38, 6e-8, 3e-8, -1e-40, -0.0]
EDGES += [float("inf"), float("nan")]


def with_edges(stored: type) -> dict[str, np.ndarray]:
    """Random tensors, and in one of them values at the edges of what a dtype can hold."""
    tensors = arrays(stored)
    with np.errstate(over="ignore"):
        edges: np.ndarray = np.asarray(EDGES, np.float64).astype(np.float32).astype(stored)
    tensors["model.embed_tokens.weight"][0, : len(edges)] = edges
    return tensors


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_is_cast_to_the_one_asked_for(
    stored: type, dtype: str, tmp_path: pathlib.Path
) -> None:
    tensors = with_edges(stored)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = {name: x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
        model = load(save(tmp_path, tensors), dtype=dtype)
    assert {x.dtype for x in weights(model)} == {jnp.dtype(dtype)}
    found = named(model)
    assert set(found) == set(tensors)
    for name, x in expected.items():
        chex.assert_trees_all_equal(bits(found[name].reshape(x.shape)), bits(x))
    if jnp.promote_types(stored, dtype) == dtype:  # nothing is lost on the way up
        for name, x in tensors.items():
            back: np.ndarray = found[name].reshape(x.shape).astype(stored)
            chex.assert_trees_all_equal(bits(back), bits(x))


@pytest.mark.parametrize(("context", "tensor"), [(4, 2), (1, 8), (8, 1)])
def test_each_device_receives_its_slice(context: int, tensor: int, tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    model = load(save(tmp_path, tensors), context=context, tensor=tensor)
    whole, n = CONFIG, tensor
    attention, mlp = model.layers[0].attention, model.layers[0].mlp
    D, F, H = whole.hidden_size, whole.intermediate_size, whole.head_dim
    expected = [
        (attention.q_weight, (whole.num_heads // n, H, D)),
        (attention.k_weight, (whole.num_kv_heads // n, H, D)),
        (attention.o_weight, (D, whole.num_heads // n, H)),
        (mlp.gate_weight, (F // n, D)),
        (mlp.down_weight, (D, F // n)),
        (model.embedding, (whole.vocab_size // n, D)),
        (model.norm, (D,)),
    ]
    for weight, shape in expected:
        shards = weight[...].addressable_shards
        assert {s.data.shape for s in shards} == {shape}
        assert len({s.device for s in shards}) == 8
        value = np.asarray(weight[...])
        for shard in shards:
            chex.assert_trees_all_equal(shard.data, value[shard.index])
    down = tensors["model.layers.0.mlp.down_proj.weight"]
    chex.assert_trees_all_equal(mlp.down_weight[...], down)


def test_a_slice_is_read_once_for_all_devices_that_hold_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read = tensor_files.read

    def count(tensor: tensor_files.Tensor, *args: Any, **kwargs: Any) -> np.ndarray:
        found = read(tensor, *args, **kwargs)
        sizes.append(found.nbytes)
        return found

    save(tmp_path, arrays())
    monkeypatch.setattr(tensor_files, "read", count)
    load(tmp_path, tensor=2, context=4)
    assert sum(sizes) == sum(x.nbytes for x in arrays().values())


def _missing(t: dict[str, np.ndarray]) -> None:
    for layer in range(2):
        del t[f"model.layers.{layer}.mlp.up_proj.weight"]


def _extra(t: dict[str, np.ndarray]) -> None:
    t["model.layers.1.self_attn.q_proj.bias"] = np.zeros(64, np.float32)


def _misshapen(t: dict[str, np.ndarray]) -> None:
    t["lm_head.weight"] = np.zeros((161, 64), np.float32)


def _integers(t: dict[str, np.ndarray]) -> None:
    t["model.norm.weight"] = np.ones(64, np.int8)


WRONG: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str]] = {
    "missing": (_missing, "model.layers.0-1.mlp.up_proj.weight: missing"),
    "extra": (_extra, "model.layers.1.self_attn.q_proj.bias: unknown"),
    "misshapen": (_misshapen, "lm_head.weight: shape (161, 64), not (160, 64)"),
    "dtype": (_integers, "model.norm.weight: I8 is not one of BF16, F16, F32"),
}


def test_everything_wrong_with_the_tensors_is_one_error(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    for spoil, _ in WRONG.values():
        spoil(tensors)
    message = refusal(save(tmp_path, tensors))
    for _, said in WRONG.values():
        assert said in message
    assert message.count(";") == len(WRONG) - 1


@pytest.mark.parametrize("wrong", WRONG)
def test_each_fault_alone_is_refused(wrong: str, tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    spoil, said = WRONG[wrong]
    spoil(tensors)
    assert refusal(save(tmp_path, tensors)) == f"checkpoint {tmp_path}: {said}"


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -1000])
def test_a_torn_file_is_refused(keep: int, tmp_path: pathlib.Path) -> None:
    path = save(tmp_path, arrays()) / SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(tmp_path)
    assert "model.safetensors: torn" in message
    assert "missing" not in message  # what cannot be read is not said to be missing


def test_a_file_with_bytes_too_many_is_refused(tmp_path: pathlib.Path) -> None:
    path = save(tmp_path, arrays()) / SINGLE
    path.write_bytes(path.read_bytes() + b"\0")
    assert "model.safetensors: torn" in refusal(tmp_path)


def test_everything_wrong_with_the_files_is_one_error(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    save_sharded(tmp_path, tensors)
    index = json.loads((tmp_path / INDEX).read_text())
    in_second = [
        name for name, file in index["weight_map"].items() if file.endswith("1.safetensors")
    ]
    (tmp_path / "part-0.safetensors").unlink()
    second = load_file(tmp_path / "part-1.safetensors")
    lost = second.pop(in_second[0])
    save_file(second, tmp_path / "part-1.safetensors")
    third = load_file(tmp_path / "part-2.safetensors")
    third[in_second[1]] = lost
    save_file(third, tmp_path / "part-2.safetensors")
    message = refusal(tmp_path)
    assert "part-0.safetensors: no such file, though the index names it" in message
    assert f"{in_second[0]}: not in part-1.safetensors" in message
    assert f"{in_second[1]}: duplicate, in part-1.safetensors and in part-2" in message
    assert "missing" not in message


def test_a_torn_index_is_refused(tmp_path: pathlib.Path) -> None:
    save_sharded(tmp_path, arrays())
    path = tmp_path / INDEX
    whole = path.read_text()
    deep = ['{"weight_map":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000]
    for text in (*deep, whole[:50], "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": []}'):
        path.write_text(text)
        assert f"{INDEX}: " in refusal(tmp_path), text[:99]
    first = next(iter(json.loads(whole)["weight_map"]))
    path.write_text(whole.replace('{"model', f'{{"{first}": "part-0.safetensors", "model', 1))
    assert f"duplicate ['{first}']" in refusal(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors .* only safetensors"):
        load(tmp_path)


def test_heads_that_do_not_divide_are_refused(tmp_path: pathlib.Path) -> None:
    message = refusal(save(tmp_path, arrays()), tensor=3)
    assert (
        "model.layers.0-1.self_attn.q_proj.weight: heads=8 cannot be divided over tensor=3 devices"
        in message
    )


def test_buffers_of_old_files_are_ignored(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    assert len(weights(load(save(tmp_path, tensors)))) == len(tensors) - 1


def test_a_tied_head_may_be_stored_but_not_differ(tmp_path: pathlib.Path) -> None:
    config = models.from_dict({**FIELDS, "tie_word_embeddings": True})
    mesh = star_jax.make_mesh()
    tensors = arrays(tie_word_embeddings=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    model = checkpoint.load(save(tmp_path, tensors), config, mesh=mesh, dtype="float32")
    assert model.head is None
    tensors["lm_head.weight"][3, 3] += 1
    with pytest.raises(ValueError, match=r"lm_head\.weight: differs .* tie_word_embeddings"):
        checkpoint.load(save(tmp_path, tensors), config, mesh=mesh, dtype="float32")


def test_a_directory_is_itself_and_an_id_is_fetched(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stub(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    assert checkpoint.resolve(str(tmp_path)) == str(tmp_path)
    assert not asked
    assert checkpoint.resolve("meta-llama/Llama-3.1-8B-Instruct") == str(tmp_path)
    ((repo_id, patterns),) = asked
    assert repo_id == "meta-llama/Llama-3.1-8B-Instruct"
    repository = [
        "config.json", "generation_config.json", "model-00001-of-00004.safetensors",
        "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
        "original/consolidated.00.pth", "pytorch_model.bin", "README.md",
    ]  # fmt: skip
    assert list(filter_repo_objects(repository, allow_patterns=patterns)) == repository[:8]
    checkpoint.resolve("meta-llama/Llama-3.1-8B-Instruct", config_only=True)
    _, (_, patterns) = asked
    assert list(filter_repo_objects(repository, allow_patterns=patterns)) == repository[:2]


@pytest.mark.parametrize("path", ["nowhere/at/all", "./nowhere", "/nowhere", "a b", ""])
def test_what_is_neither_is_refused_without_asking_the_hub(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path!r} is not a directory")):
        checkpoint.resolve(path)


def test_a_failed_fetch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def stub(repo_id: str, *, allow_patterns: list[str]) -> str:
        raise RuntimeError("gated\nread all about it")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    with pytest.raises(FileNotFoundError, match=r"could not be fetched from the hub: gated$"):
        checkpoint.resolve("checkpoints/nowhere")
