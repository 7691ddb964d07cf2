"""What a layer keeps of a context, as an object: prefill and decoding do not look into it.

A kind of layer cache is a pytree class. Its arrays have the batch as their first axis and the keys
as their second, so that a wave of blocks is written into all kinds alike; within an array, how a
key is stored is the kind's own.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Int, Keys, PerRow, Queries, Values
from star_jax.attention import Partial, Segment
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Attention


@runtime_checkable
class LayerCache(Protocol):
    """The keys (after RoPE) and values of one layer, in some form."""

    @classmethod
    def of(cls, k: Keys, v: Values) -> "LayerCache":
        """Keeps these: a wave's, on one device."""
        ...

    @classmethod
    def layout(cls) -> Any:
        """Where its arrays lie on the mesh: a `PartitionSpec` for each."""
        ...

    def attend(self, q: Queries, valid: PerRow, attention: Attention) -> Partial:
        """The queries over the first `valid` keys of this device."""
        ...

    def read(self, start: Array | int, count: int) -> tuple[Keys, Values]:
        """`count` of this device's keys and values, from `start` on."""
        ...

    def take(self, at: Int[Array, "B some"]) -> tuple[Keys, Values]:
        """This device's keys and values at these places, for each row; for layers with windows."""
        ...


class Plain(NamedTuple):
    """Keys and values as they are computed."""

    k: Array  # [B, S, K, H]
    v: Array

    @classmethod
    def of(cls, k: Keys, v: Values) -> "Plain":
        return cls(k, v)

    @classmethod
    def layout(cls) -> "Plain":
        return cls(mesh_lib.CACHE, mesh_lib.CACHE)  # type: ignore[arg-type]

    def attend(self, q: Queries, valid: PerRow, attention: Attention) -> Partial:
        return attention(q, [Segment(self.k, self.v, length=valid)])

    def read(self, start: Array | int, count: int) -> tuple[Keys, Values]:
        def some(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, count, axis=1)

        return some(self.k), some(self.v)

    def take(self, at: Int[Array, "B some"]) -> tuple[Keys, Values]:
        def some(x: Array) -> Array:
            return jnp.take_along_axis(x, at[:, :, None, None], axis=1)

        return some(self.k), some(self.v)
