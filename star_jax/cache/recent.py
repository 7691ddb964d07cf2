"""The last keys of a context, in its order and whole on every device, for layers with windows."""

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Int
from star_jax.cache.layer import LayerCache
from star_jax.cache.sharded import Cache, Pair
from star_jax.runtime.mesh import CONTEXT


def collect(layer: LayerCache, at: Int[Array, "B w"]) -> Pair:
    """Keys and values from wherever they lie: [B, w, K, H] each; one collective.

    at: where each of them lies on this device; -1 where it does not, and zeros if no device has it.
    """
    found = jnp.stack(layer.take(jnp.maximum(at, 0)))
    mine = jnp.where((at >= 0)[:, :, None, None], found, 0)
    if jax.lax.axis_size(CONTEXT) > 1:
        mine = jax.lax.psum(mine, CONTEXT)  # [2, B, w, K, H]; exact: all but one add zeros
    return mine[0], mine[1]


def recent(cache: Cache, index: int) -> Pair:
    """The last keys and values of a layer before a query, of the context and of earlier turns."""
    if cache.last is None:
        raise ValueError(f"layer {index} has a window, and the cache does not say what is last")
    at = cache.last[:, 0]  # of this device
    k, v = collect(cache.layers[index], at)
    if cache.turns is None:
        return k, v
    kv, valid = cache.turns
    some = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, at.shape[1]))

    def after(x: Array, turns: Array) -> Array:
        return some(jnp.concatenate([x, turns], axis=1), valid)

    return after(k, kv.k[index]), after(v, kv.v[index])
