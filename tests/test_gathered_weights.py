"""Weights that are sharded over `context` at rest are gathered layer by layer."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import star_jax
from star_jax import models
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.placement import placement_of

LENGTH = 24
MESH = star_jax.make_mesh(context=4, tensor=2)


def at_rest(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> P:
    """A layer's weights are cut along the model's width, beside what `tensor` cuts."""
    spec = placement_of(shape, axes, MESH).sharding.spec
    if ".layers." not in name:
        return spec
    return P(*(CONTEXT if axis == "embed" else s for axis, s in zip(axes, spec, strict=True)))


def width(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> int:
    """The axis of a weight that is cut at rest."""
    return axes.index("embed")


def test_layers_are_gathered_one_by_one_and_compute_the_same() -> None:
    model = tiny.model()
    specs, cut = models.build(model.config, at_rest), models.build(model.config, width)
    tokens = np.asarray([tiny.ids(LENGTH)])
    expected, *_ = tiny.forward(model, tokens[0], range(LENGTH))

    def whole(layer: models.Layer) -> models.Layer:
        def gather(weight: jax.Array, axis: int) -> jax.Array:
            return jax.lax.all_gather(weight, CONTEXT, axis=axis, tiled=True)

        return jax.tree.map(gather, layer, cut.layers[0])

    @jax.jit
    def forward(model: models.Decoder, tokens: jax.Array) -> jax.Array:
        def local(model: models.Decoder, tokens: jax.Array) -> jax.Array:
            positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
            attend = tiny.Literal((), ())
            hidden, _ = model.run(tokens, positions, attend, (), axis=TENSOR, gather=whole)
            return model.logits(hidden, axis=TENSOR)

        return jax.shard_map(
            local, mesh=MESH, in_specs=(specs, P()), out_specs=P(), check_vma=False
        )(model, tokens)

    model = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(MESH, spec)), model, specs)
    down = model.layers[1].mlp.down_weight[...]
    assert {shard.data.shape for shard in down.addressable_shards} == {(64 // 4, 96 // 2)}
    assert tiny.difference(forward(model, tokens)[0], expected) < 1e-5

    text = forward.lower(model, tokens).compile().as_text() or ""
    gathers = Counter(re.findall(r' = \S+ all-gather\(.*op_name="[^"]*/layer_(\d)/', text))
    weights = len(jax.tree.leaves(model.layers[0]))
    assert gathers == {"0": weights, "1": weights}
