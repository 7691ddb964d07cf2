"""A segment: some of the keys, where they lie, and which of them each query sees.

Query i stands at place i + offset of the segment's keys, and sees key j if all of this holds:

    begin <= j < length              all keys are valid where there is neither
    j <= i + offset                  if causal
    j > i + offset - window          if there is a window: the last `window` keys up to its own

The place may lie before the first key, or behind the last one: of a halo, whose h keys lie wholly
before the queries, the offset is h. Without a causal mask the window hides keys that are too far
back, and none that comes later; with neither of them the offset says nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Bool, Keys, Queries, Values
from star_jax.attention import compressed
from star_jax.attention.compressed import Scales

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """Some of the keys, with their values. A pytree, whose `causal` and `window` are static.

    With `scales`, keys and values are in 8 bits. They are never made whole but a tile at a time.
    """

    k: Array  # [B, S, K, H]
    v: Array  # [B, S, K, H]
    length: Array | None = None  # [B], how many keys are valid; the others are finite
    causal: bool = dataclasses.field(default=False, metadata=_STATIC)
    offset: Array | None = None  # [B], where query 0 stands; None: at the first key
    window: int | None = dataclasses.field(default=None, metadata=_STATIC)
    begin: Array | None = None  # [B], the first key that is seen
    scales: Scales | None = None  # of keys and values in 8 bits

    @property
    def keys(self) -> int:
        return self.k.shape[1]

    @property
    def is_plain(self) -> bool:
        return self.scales is None

    @property
    def dtypes(self) -> set[jnp.dtype]:
        """Of the keys and values, once they are whole."""
        return {x.dtype for x in self.scales or (self.k, self.v)}

    def tile(self, start: Array | int, size: int) -> tuple[Keys, Values]:
        """`size` keys and values from `start` on: a multiple of `size`, or the last ones."""
        if self.scales is not None:
            return compressed.tile(self.k, self.v, self.scales, start, size)

        def some(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

        return some(self.k), some(self.v)

    def whole(self) -> tuple[Keys, Values]:
        """All keys and values: copied where they are in 8 bits."""
        return (self.k, self.v) if self.scales is None else self.tile(0, self.keys)

    @property
    def is_ordered(self) -> bool:
        """Whether what a query sees depends on where it stands."""
        return self.causal or self.window is not None

    def check(self, q: Queries) -> None:
        """Raises ValueError if it does not fit these queries, or says what cannot be."""
        batch, _, heads, width = q.shape
        if self.k.shape != self.v.shape:
            raise ValueError(f"a segment's v {self.v.shape} must be as its k {self.k.shape}")
        if self.k.ndim != 4 or self.k.shape[::3] != (batch, width):
            raise ValueError(f"a segment's k {self.k.shape} does not fit queries of {q.shape}")
        if self.scales is not None:
            shape, groups = self.k.shape, self.scales.feature.shape[1]
            fits = shape[:3], shape[:3], (shape[0], groups, *shape[2:])
            if tuple(x.shape for x in self.scales) != fits or self.keys % max(groups, 1):
                raise ValueError(
                    f"a segment's scales of shapes {[x.shape for x in self.scales]} do not fit its "
                    f"k {shape}"
                )
        if heads % self.k.shape[2]:
            raise ValueError(
                f"{heads} query heads are not a multiple of {self.k.shape[2]} key heads"
            )
        for name, of_rows in (
            ("length", self.length),
            ("offset", self.offset),
            ("begin", self.begin),
        ):
            if of_rows is not None and of_rows.shape != (batch,):
                raise ValueError(f"a segment's {name} of shape {of_rows.shape} must be [{batch}]")
        if self.window is not None and self.window < 1:
            raise ValueError(f"a segment's window={self.window} must be at least 1: a key, its own")

    def visible(self, queries: int) -> Bool[Array, "B T S"]:
        """Which of the keys each query sees."""
        batch = self.k.shape[0]
        at = jnp.arange(queries)[None, :, None]
        if self.offset is not None:
            at = at + self.offset[:, None, None]
        key = jnp.arange(self.keys)
        mask = jnp.ones((batch, queries, self.keys), bool)
        if self.length is not None:
            mask &= key < self.length[:, None, None]
        if self.begin is not None:
            mask &= key >= self.begin[:, None, None]
        if self.causal:
            mask &= key <= at
        if self.window is not None:
            mask &= key > at - self.window
        return mask
