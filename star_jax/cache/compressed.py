"""Layer caches that keep keys and values in 8 bits: half of the bytes of a 16-bit model.

Each wave is compressed where it is encoded, and what is kept is made whole again inside the
attention, a tile at a time. Anchor, halo and what windows reach go from block to block in phase 1
as they are; but a context that is extended takes them from here, and a correction reads the keys of
earlier waves here.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from star_jax.array_typing import Array, Int, Keys, PerRow, Queries, Values
from star_jax.attention import Partial, Segment
from star_jax.attention import compressed as eight_bits
from star_jax.attention.compressed import Scales
from star_jax.cache.layer import LayerCache, Plain
from star_jax.runtime.mesh import CONTEXT, DATA, TENSOR
from star_jax.runtime.runtime import Attention


class _Arrays(NamedTuple):
    """A wave, whose keys were compressed together, is one entry, whatever its size."""

    k: Array  # [B, waves, keys of a wave, K, H]
    v: Array
    k_scale: Array  # [B, waves, keys of a wave, K]
    v_scale: Array
    feature: Array  # [B, waves, K, H]


class Compressed(_Arrays):
    """Keys and values in 8 bits; see `attention.compressed`."""

    name: ClassVar[str]

    @classmethod
    def of(cls, k: Keys, v: Values) -> "Compressed":
        small_k, small_v, scales = eight_bits.compress(k, v, eight_bits.DTYPES[cls.name])
        k, v, k_scale, v_scale = (x[:, None] for x in (small_k, small_v, scales.k, scales.v))
        return cls(k, v, k_scale, v_scale, scales.feature)

    @classmethod
    def layout(cls) -> Any:
        keys, scales = P(DATA, CONTEXT, None, TENSOR, None), P(DATA, CONTEXT, None, TENSOR)
        return cls(keys, keys, scales, scales, P(DATA, CONTEXT, TENSOR, None))  # type: ignore[arg-type]

    def attend(self, q: Queries, valid: PerRow, attention: Attention) -> Partial:
        k, v, scales = self._flat()
        return attention(q, [Segment(k, v, length=valid, scales=scales)])

    def read(self, start: Array | int, count: int) -> tuple[Keys, Values]:
        at = start + jnp.arange(count)
        return self.take(jnp.broadcast_to(at, (self.k.shape[0], count)))

    def take(self, at: Int[Array, "B some"]) -> tuple[Keys, Values]:
        return eight_bits.take(*self._flat(), at)

    def _flat(self) -> tuple[Array, Array, Scales]:
        """Keys and values one after another: [B, S, K, H]. Nothing moves."""
        *arrays, feature = self
        k, v, k_scale, v_scale = (jax.lax.collapse(x, 1, 3) for x in arrays)
        return k, v, Scales(k_scale, v_scale, feature)


class Int8(Compressed):
    """Integers from -127 to 127."""

    name = "int8"


class Fp8(Compressed):
    """Floating point of four bits of exponent and three of mantissa, E4M3, up to 448."""

    name = "fp8"


KINDS: dict[str, type[LayerCache]] = {kind.name: kind for kind in (Int8, Fp8)}


def of_dtype(name: str | None) -> type[LayerCache]:
    """The layer cache for a `cache_dtype`: of the model's own dtype, None, the plain one.

    Raises:
      ValueError: there is none.
    """
    if name is None:
        return Plain
    if name not in KINDS:
        raise ValueError(f"cache_dtype={name!r:.99} must be one of {list(KINDS)}, or None")
    return KINDS[name]


def dtype_of(kind: type[LayerCache]) -> str | None:
    """The `cache_dtype` of a kind; None of those that are not in 8 bits."""
    return next((name for name, one in KINDS.items() if one is kind), None)
