"""What a context was encoded with: compared when it is asked, for keys of another model are noise.

Of the weights it is a hash of every bit, taken on the devices, one small result per weight. It
does not depend on the mesh: it is of what a checkpoint holds, so that key/value heads that a
mesh repeats count once.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax import models
from star_jax.array_typing import Array, UInt32
from star_jax.json_files import shown
from star_jax.models import Decoder, DecoderConfig
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import placement_of
from star_jax.text.tokenizer import Tokenizer

TOLD = ("attention", "cache")  # and not compared
_UINT = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
_SALTS = (0x243F6A88, 0x85A308D3)  # of two words: digits of pi


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What tells a model, and how it encoded a context, from others.

    weights, tokenizer: hashes. A tokenizer is None where there is none.
    attention: how contexts are encoded, for people to read; cache: the `cache_dtype` that they are
      kept in. Neither keeps an engine from asking.
    """

    weights: str
    config: DecoderConfig
    dtype: str
    tokenizer: str | None
    attention: str
    cache: str | None = None

    def differences(self, other: "Fingerprint") -> list[str]:
        """What keeps one's context from being asked by the other, each with both values.

        Only ids are exchanged: an engine without a tokenizer may ask, and be asked, by any.
        """
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        for told in TOLD:
            del mine[told], theirs[told]
        if None in (self.tokenizer, other.tokenizer):
            del mine["tokenizer"], theirs["tokenizer"]
        return _differences(mine, theirs)

    def fields(self) -> dict[str, Any]:
        """For a file: as JSON has them."""
        return _plain(dataclasses.asdict(self))

    def differences_from_fields(self, saved: dict[str, Any]) -> list[str]:
        """`differences` from what `fields` has given, and a file has kept; they come first."""
        mine, saved = self.fields(), dict(saved)
        for told in TOLD:
            del mine[told]
            saved.pop(told, None)
        if None in (mine["tokenizer"], saved.get("tokenizer", "")):
            del mine["tokenizer"]
            saved.pop("tokenizer", None)
        return _differences(saved, mine)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _differences(mine: dict, theirs: dict, prefix: str = "") -> list[str]:
    found = []
    for name in sorted(mine.keys() | theirs.keys(), key=[*mine, *theirs].index):
        there, here = mine.get(name), theirs.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            found.append(f"{prefix}{name} {shown(there)} there, {shown(here)} here")
    return found


def of_tokenizer(tokenizer: Tokenizer | None) -> str | None:
    """A hash of what says which ids a text has."""
    return None if tokenizer is None else f"{type(tokenizer).__name__} {tokenizer.digest}".strip()


class Weights:
    """The hash of a model's weights, taken when first asked for and once for each set of them."""

    def __init__(self) -> None:
        self._hashed: list[Array] = []
        self._value = ""

    def digest(self, model: Decoder, mesh: Mesh) -> str:
        """16 hexadecimal digits. `model` lies on `mesh` as `place` puts it."""
        arrays = jax.tree.leaves(model)
        if len(arrays) != len(self._hashed) or any(
            new is not old for new, old in zip(arrays, self._hashed, strict=True)
        ):
            self._hashed, self._value = arrays, _digest(arrays, model.config, mesh)
        return self._value


@dataclasses.dataclass(frozen=True)
class _Weight:
    """One weight. JAX sees a class of ours as a leaf of a pytree; a tuple would be a branch."""

    name: str
    shape: tuple[int, ...]  # in the checkpoint
    repeat: int
    axis: int  # of the heads that are repeated


def _digest(arrays: list[Array], config: DecoderConfig, mesh: Mesh) -> str:
    def describe(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> _Weight:
        repeat = placement_of(shape, axes, mesh).repeat
        return _Weight(name, shape, repeat, axes.index("kv_heads") if repeat > 1 else 0)

    weights = jax.tree.leaves(models.build(config, describe))
    # One after the other: simulated devices deadlock when many programs with an all-reduce each
    # are in flight. What a wait costs is little beside reading a weight.
    words = [
        jax.block_until_ready(_words(mesh, weight.axis, weight.repeat)(array))
        for weight, array in zip(weights, arrays, strict=True)
    ]
    total = hashlib.blake2b(digest_size=8)
    for weight, array, two in zip(weights, arrays, mesh_lib.fetch(words), strict=True):
        total.update(f"{weight.name} {weight.shape} {array.dtype} {two.tolist()}\n".encode())
    return total.hexdigest()


@functools.cache
def _words(mesh: Mesh, axis: int, repeat: int) -> Callable[[Array], UInt32[Array, "2"]]:
    """A program that hashes a weight; compiled per shape and dtype.

    Every element's bits are mixed with its index, and all are added: in any order, so that it
    does not matter on which device they lie. Integers wrap around.
    """

    def words(x: Array) -> Array:
        index, counts = jnp.uint32(0), jnp.bool_(True)
        for i, size in enumerate(x.shape):
            at = jax.lax.broadcasted_iota(jnp.uint32, x.shape, i)
            if repeat > 1 and i == axis:
                counts = at % np.uint32(repeat) == 0  # the first of each head's copies
                at, size = at // np.uint32(repeat), size // repeat
            index = index * np.uint32(size) + at
        return two_words(x, index, counts)

    return jax.jit(words, out_shardings=NamedSharding(mesh, mesh_lib.WHOLE))


def two_words(x: Array, index: Array, counts: Array) -> UInt32[Array, "2"]:
    """The hash of those elements of an array that count, each with an index of its own."""
    bits = jax.lax.bitcast_convert_type(x, _UINT[x.dtype.itemsize]).astype(jnp.uint32)
    mixed = [mix(bits + mix(index ^ np.uint32(salt))) for salt in _SALTS]
    return jnp.stack([jnp.sum(jnp.where(counts, m, 0), dtype=jnp.uint32) for m in mixed])


def mix(x: Array) -> Array:
    """A permutation of 32-bit words after which every bit depends on every other."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
