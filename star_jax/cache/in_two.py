"""What a layer keeps of a context in two parts, each in the form of any other layer cache."""

import functools
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from star_jax.array_typing import Array, Int, Keys, PerRow, Queries, Values
from star_jax.attention import Partial, merge
from star_jax.cache.layer import LayerCache
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Attention


class _Parts(NamedTuple):
    """The valid keys of a device are the first `firsts` of one part, then those of the other."""

    first: Any
    second: Any
    firsts: Array  # int32 [B, C]


class InTwo(_Parts):
    """Two layer caches of one kind. It is asked as one, but its keys are not read."""

    kind: ClassVar[type[LayerCache]]

    @classmethod
    def of(cls, k: Keys, v: Values) -> "InTwo":
        raise NotImplementedError("it is made of its parts")

    @classmethod
    def layout(cls) -> "InTwo":
        part = cls.kind.layout()
        return cls(part, part, mesh_lib.BLOCKS)  # type: ignore[arg-type]

    def attend(self, q: Queries, valid: PerRow, attention: Attention) -> Partial:
        firsts = self.firsts[:, 0]
        first = self.first.attend(q, jnp.minimum(valid, firsts), attention)
        second = self.second.attend(q, jnp.maximum(valid - firsts, 0), attention)
        return merge(first, second)

    def read(self, start: Array | int, count: int) -> tuple[Keys, Values]:
        raise NotImplementedError("its parts are read by themselves")

    def take(self, at: Int[Array, "B some"]) -> tuple[Keys, Values]:
        """Of a layer with a window, which has nothing in the first part."""
        return self.second.take(at)


@functools.cache
def in_two(kind: type[LayerCache]) -> type[InTwo]:
    """The class for two parts of this kind: the same one each time."""
    return type(f"InTwo{kind.__name__}", (InTwo,), {"kind": kind})


def one_part(kind: type[LayerCache]) -> type[LayerCache]:
    """The kind of the parts; of what is not in two, itself."""
    whole: Any = kind
    return whole.kind if issubclass(whole, InTwo) else kind


def apart(layers: tuple[LayerCache, ...]) -> tuple[tuple[LayerCache, ...], ...]:
    """The second parts of all layers, and the first ones; where they are not in two, the layers."""
    if not isinstance(layers[0], InTwo):
        return (layers,)
    two = [layer for layer in layers if isinstance(layer, InTwo)]
    return tuple(layer.second for layer in two), tuple(layer.first for layer in two)
