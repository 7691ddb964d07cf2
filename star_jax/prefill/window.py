"""What a layer with a window sees before a block, whose own keys are not all that it reaches.

Keys within the window come from the block before, or from several where blocks are short: all
of them, at their own positions, so that such a layer computes exact attention. Anchor, halo and
correction are of the layers that see everything.
"""

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Int, Keys, Values
from star_jax.cache.layer import LayerCache
from star_jax.cache.recent import collect
from star_jax.cache.sharded import Pair
from star_jax.prefill.sending import first_has, send, unpack
from star_jax.runtime.mesh import CONTEXT


def before_blocks(k: Keys, v: Values, reach: int, earlier: Pair | None) -> tuple[Pair, Pair]:
    """The `reach` keys before each device's block, and before the first block of the next wave.

    One collective: of the last keys of each block, or of all where blocks have fewer than that.
    k, v: those of the block. earlier: what the wave before gave as its second result; None: this
      is the first one, before which there is nothing, and anything may stand for it.
    Returns: [B, reach, K, H] each. The second is of the first device; the others may differ.
    """
    packed, block = jnp.stack([k, v]), k.shape[1]
    if reach <= block:
        sent = unpack(send(packed[:, :, block - reach :]))
        return sent if earlier is None else first_has(earlier, sent), sent
    if jax.lax.axis_size(CONTEXT) > 1:
        # [2, B, b, K, H] -> [2, B, C*b, K, H]
        packed = jax.lax.all_gather(packed, CONTEXT, axis=2, tiled=True)
    nothing = jnp.zeros((*packed.shape[:2], reach, *packed.shape[3:]), packed.dtype)
    packed = jnp.concatenate([nothing if earlier is None else jnp.stack(earlier), packed], axis=2)
    start = jax.lax.axis_index(CONTEXT) * block
    mine = jax.lax.dynamic_slice_in_dim(packed, start, reach, axis=2)
    return unpack(mine), unpack(packed[:, :, packed.shape[2] - reach :])


def last(layer: LayerCache, reach: int, keys: Int[Array, ""], block: int) -> Pair:
    """The last `reach` of a context of `keys` keys on every device, dealt out in blocks."""
    devices, here = jax.lax.axis_size(CONTEXT), jax.lax.axis_index(CONTEXT)
    position = keys * devices - reach + jnp.arange(reach)
    number = position // block  # of the block, which are dealt out in turn
    at = number // devices * block + position % block
    at = jnp.where((position >= 0) & (number % devices == here), at, -1)
    batch = jax.tree.leaves(layer)[0].shape[0]
    return collect(layer, jnp.broadcast_to(at, (batch, reach)))
