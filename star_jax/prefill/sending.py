"""What devices of `context` send each other of keys and values: anchor, halo, and their ends."""

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array
from star_jax.cache.sharded import Pair
from star_jax.runtime.mesh import CONTEXT


def unpack(packed: Array) -> Pair:
    """[2, B, S, K, H], as they are sent together, apart."""
    return packed[0], packed[1]


def first_has(earlier: Pair, others: Pair) -> Pair:
    """What the first device of `context` has of the wave before; the others have other keys."""
    here = jax.lax.axis_index(CONTEXT) == 0
    k, v = (jnp.where(here, *both) for both in zip(earlier, others, strict=True))
    return k, v


def broadcast(x: Array, *, gpu: bool) -> Array:
    """What the first device of `context` holds, on all of them; one collective."""
    if jax.lax.axis_size(CONTEXT) == 1 or not x.size:
        return x
    if gpu:
        return jax.lax.pbroadcast(x, (CONTEXT,), 0)  # [2, B, A, K, H], the same shape
    # No broadcast on CPUs. The sum is exact: the other devices add zeros.
    return jax.lax.psum(jnp.where(jax.lax.axis_index(CONTEXT) == 0, x, 0), CONTEXT)


def send(x: Array) -> Array:
    """What the device before holds; the first one gets the last one's. [2, B, h, K, H]."""
    devices = jax.lax.axis_size(CONTEXT)
    if devices == 1 or not x.size:
        return x
    return jax.lax.ppermute(x, CONTEXT, [(c, (c + 1) % devices) for c in range(devices)])
