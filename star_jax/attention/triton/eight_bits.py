"""Keys and values in 8 bits inside a kernel: a product with them is a conversion, and no more.

The scales of a tile go elsewhere: those of the keys' features into the queries, those of the keys
into the scores, and those of the values into the weights. What was measured of it is in `decode`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as plgpu

from star_jax.array_typing import Array

# What is multiplied with the features' scales, queries or keys, is divided by this before, lest it
# overflow in float16.
ROOM = 128.0
# How many times as large as in the kernel E4M3 is: its bits are made a float16's there, whose
# exponents are 8 less.
LIFT = {jnp.dtype(jnp.int8): 1.0, jnp.dtype(jnp.uint8): 256.0}


def bits(x: Array) -> Array:
    """Keys or values as a kernel takes them: E4M3 as its bits, since Ampere has no such numbers."""
    return lax.bitcast_convert_type(x, jnp.uint8) if x.dtype == jnp.float8_e4m3fn else x


@dataclasses.dataclass(frozen=True)
class Scales:
    """Where a kernel finds the scales of one head."""

    k: Any  # [S]
    v: Any  # [S]
    feature: Any  # [groups, W]
    keys: int  # S
    lift: float

    @classmethod
    def of(cls, refs: Sequence[Any], k: Any) -> "Scales":
        """refs: as `compressed.Scales` has them; k: of the keys [S, W]."""
        of_k, of_v, feature = refs
        return cls(of_k, of_v, feature, k.shape[0], LIFT[jnp.dtype(k.dtype)])

    def of_features(
        self, q: Array, k: Array, first: Array, *, head_dim: int
    ) -> tuple[Array, Array]:
        """Queries [rows, W] for the tile of keys [keys, W] from `first` on; and the keys, wider."""
        group, (size, width) = self.keys // self.feature.shape[0], k.shape
        wide, lane = self.wider(k, q.dtype), jnp.arange(width)[None, :]
        if group % size == 0:
            scaled = q.astype(jnp.float32) * (1 / ROOM)
            of_all = jnp.broadcast_to(lax.div(first, jnp.int32(group)), (1, 1))
            return (scaled * self._feature(of_all, lane, head_dim)).astype(q.dtype), wide
        # A group ends within a tile: each key has scales of its own.
        at = jnp.minimum(first + jnp.arange(size), self.keys - 1)
        of_each = self._feature(lax.div(at, jnp.int32(group))[:, None], lane, head_dim)
        return q, (wide.astype(jnp.float32) * of_each * (1 / ROOM)).astype(q.dtype)

    def _feature(self, group: Array, lane: Array, head_dim: int) -> Array:
        mask = jnp.broadcast_to(lane < head_dim, jnp.broadcast_shapes(group.shape, lane.shape))
        return plgpu.load(self.feature.at[group, lane], mask=mask, other=0.0).astype(jnp.float32)

    def of_tile(self, first: Array, size: int, *, end: Array | None) -> tuple[Array, Array]:
        """What the products with keys, and with values, of a tile are multiplied with: [size]."""
        at = first + jnp.arange(size)
        mask = None if end is None else at < end

        def some(ref: Any) -> Array:
            other = {} if mask is None else {"mask": mask, "other": 0.0}
            return plgpu.load(ref.at[at], **other).astype(jnp.float32)

        return some(self.k) * (ROOM * self.lift), some(self.v) * self.lift

    @staticmethod
    def wider(x: Array, dtype: Any) -> Array:
        """Numbers in 8 bits in the dtype of the queries; E4M3 a 256th of what they are. Exact."""
        if x.dtype != jnp.uint8:
            return x.astype(dtype)
        whole = x.astype(jnp.uint16)
        half = ((whole & 0x80) << 8) | ((whole & 0x7F) << 7)
        return lax.bitcast_convert_type(half, jnp.float16).astype(jnp.float32).astype(dtype)
