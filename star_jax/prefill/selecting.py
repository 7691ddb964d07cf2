"""Chooses the keys that are kept of a block; see `keeping`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped

from star_jax.array_typing import Array, Float, Int, PerRow
from star_jax.cache.in_two import in_two
from star_jax.cache.sharded import Kept, Pair, Pairs
from star_jax.prefill.criteria import CRITERIA, Block
from star_jax.prefill.keeping import Slots
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once


class Filled(NamedTuple):
    """Of this device's block, for each row: tokens of the context, and keys kept of them."""

    valid: PerRow
    kept: PerRow


def select(block: Block, slots: Slots, kept: PerRow) -> Pair:
    """The keys and values that stay, [B, slots.keys, K, H], in the order of the context.

    Of each row the first `kept` are valid.
    """
    scores = CRITERIA[slots.keep.criterion](block)
    at = chosen(scores, block.starts, block.valid, kept, slots)
    k, v = (jnp.take_along_axis(x, at[..., None], axis=1) for x in (block.k, block.v))
    return k, v


def chosen(
    scores: Float[Array, "B S K"], starts: PerRow, valid: PerRow, kept: PerRow, slots: Slots
) -> Int[Array, "B n K"]:
    """Which tokens of the block stay, for each head: those with the highest scores.

    Of the first block the rest of the anchor, whatever its scores. NaN is the lowest score.
    """
    size = scores.shape[1]
    token, is_first = jnp.arange(size), (starts == 0)[:, None]
    anchor = is_first & (token < slots.anchor)
    out = (is_first & (token < slots.shared)) | (token >= valid[:, None])
    scores = jnp.nan_to_num(scores, nan=jnp.finfo(scores.dtype).min)  # infinities become finite
    scores = jnp.where(anchor[..., None], jnp.inf, scores)
    scores = jnp.where(out[..., None], -jnp.inf, scores)
    _, at = jax.lax.top_k(scores.transpose(0, 2, 1), slots.keys)  # [B, K, n]
    at = jnp.where(jnp.arange(slots.keys) < kept[:, None, None], at, size)
    return jnp.minimum(jnp.sort(at, axis=-1), size - 1).transpose(0, 2, 1)


@compiled_once
def parts(runtime: Runtime, slots: Slots) -> Wrapped:
    """parts(anchors) -> Kept: of the anchor's shared keys those of each device, for each layer."""

    def deal(anchors: Pairs) -> Kept:
        here, more = jax.lax.axis_index(CONTEXT), slots.part * slots.devices - slots.shared

        def mine(x: Array) -> Array:
            x = jnp.pad(x[:, : slots.shared], ((0, 0), (0, more), (0, 0), (0, 0)))
            return jax.lax.dynamic_slice_in_dim(x, here * slots.part, slots.part, axis=1)

        of = runtime.layer_cache.of
        # A layer with a window has no anchor: one key stands for none.
        nothing = of(*(x[:, :1] for x in next(iter(anchors.values()))))
        return tuple(
            nothing if spec.window else of(*map(mine, anchors[spec.index]))
            for spec in runtime.config.layers
        )

    return runtime.program(deal, (mesh_lib.TAIL,), runtime.layers)


def together(own: Kept, first: Kept, slots: Slots, runtime: Runtime) -> Kept:
    """What layers keep: their parts of the anchor, and what is kept of their blocks."""
    kind: Any = in_two(runtime.layer_cache)  # type: ignore[arg-type]
    batch = jax.tree.leaves(own)[0].shape[0]

    def put(firsts: tuple[int, ...]) -> Array:
        return runtime.put(np.tile(np.asarray(firsts, np.int32), (batch, 1)), mesh_lib.BLOCKS)

    some, none = put(slots.firsts), put((0,) * slots.devices)
    return tuple(
        kind(a, b, none if spec.window else some)
        for spec, a, b in zip(runtime.config.layers, first, own, strict=True)
    )


def heads_here(keys: int, runtime: Runtime) -> Int[Array, "K"]:
    """Which of the model's key heads this device has: a mesh may have each several times."""
    devices = jax.lax.axis_size(TENSOR)
    repeat = devices * keys // runtime.config.num_kv_heads
    return (jax.lax.axis_index(TENSOR) * keys + jnp.arange(keys)) // repeat
