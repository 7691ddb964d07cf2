"""An encoded context: what phase 1 returns, and phase 2 asks."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax.cache.sharded import Cache, Shards, Turns
from star_jax.checkpoint.fingerprint import Fingerprint
from star_jax.runtime import mesh as mesh_lib
from star_jax.sizes import whole

T = TypeVar("T")
Asked = TypeVar("Asked", bound="Encoded")  # methods return what they are called on

FEW = 512  # tokens of padding that are not worth a pass of their own
SHOWN = 8  # rows of a batch whose lengths its `repr` tells


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Rows of like length, encoded together: short ones would pay for the longest of all.

    rows: which of the context's; tokens: theirs; encoded: how many of each row's phase 1 has
    encoded, which are dealt out as `shards` says. The others are turns of a dialogue. The cache
    may have more rows, of padding.
    """

    rows: tuple[int, ...]
    tokens: list[list[int]]
    encoded: list[int]
    cache: Cache
    shards: Shards
    mesh: Mesh

    @property
    def batch(self) -> int:
        """Rows, with those of padding."""
        return self.cache.valid.shape[0]

    def of(self, values: Sequence[T]) -> list[T]:
        """Takes the values of these rows from those of all rows of the context."""
        return [values[i] for i in self.rows]

    def cut(self, lengths: Sequence[int]) -> "Group":
        """The group of the first tokens of each row; see `Context.cut`."""
        tokens = [row[:length] for row, length in zip(self.tokens, lengths, strict=True)]
        encoded = [min(n, len(row)) for n, row in zip(self.encoded, tokens, strict=True)]
        padding = [0] * (self.batch - len(tokens))
        put = mesh_lib.put_on(self.mesh)
        cache = self.cache._replace(
            valid=put(self.shards.valid(encoded + padding), mesh_lib.BLOCKS)
        )
        if cache.last is not None:
            last = self.shards.last(encoded + padding, cache.last.shape[-1])
            cache = cache._replace(last=put(last, mesh_lib.PLACES))
        if cache.turns is not None:
            rest = [len(row) - n for row, n in zip(tokens, encoded, strict=True)]
            turns = cache.turns._replace(valid=put(np.asarray(rest + padding, np.int32)))
            cache = cache._replace(turns=turns)
        return dataclasses.replace(self, tokens=tokens, encoded=encoded, cache=cache)

    def followed_by(self, tokens: list[list[int]], turns: Turns) -> "Group":
        """The group after another turn: `tokens` are all of each row's, `turns` all turns."""
        return dataclasses.replace(self, tokens=tokens, cache=self.cache._replace(turns=turns))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """What phase 1 returns: a `Context`, or a `ContextBatch`. Asking it changes nothing.

    It is equal to itself alone: arrays are not compared.
    """

    is_batch: ClassVar[bool]

    tokens: list[list[int]]  # one list per row
    groups: tuple[Group, ...]
    mesh: Mesh
    fingerprint: Fingerprint

    def __repr__(self) -> str:
        lengths = [str(len(row)) for row in self.tokens[:SHOWN]]
        more = ", ..." if len(self.tokens) > SHOWN else ""
        rows = f"{len(self.tokens)} rows of " if self.is_batch else ""
        made = self.fingerprint
        axes = " ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        return (
            f"{type(self).__name__}({rows}{', '.join(lengths)}{more} tokens, {made.attention}, "
            f"{made.dtype}, mesh {axes})"
        )

    def check(self, mesh: Mesh, fingerprint: Fingerprint) -> None:
        """Raises ValueError if an engine with this mesh and fingerprint may not ask."""
        if self.mesh != mesh:
            raise ValueError("the context was encoded on another mesh than this engine's")
        if differences := self.fingerprint.differences(fingerprint):
            raise ValueError(
                "the context was encoded by another model than this engine's: "
                f"{'; '.join(differences)}; encode it with this engine"
            )

    @property
    def has_turns(self) -> bool:
        """Whether questions and answers were added since phase 1."""
        return any(group.cache.turns is not None for group in self.groups)

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """What tells the tokens of each row from others: see `digest`."""
        return [digest(row) for row in self.tokens]

    def prefix(self: Asked, length: int | np.integer) -> Asked:
        """The context of the first `length` tokens of each row, as if no more were encoded.

        It shares the keys and values; nothing is computed. Shorter rows stay whole.
        """
        return self.cut(whole("length", length))

    def cut(self: Asked, length: int | np.integer) -> Asked:
        """`prefix`, but `length` may be 0: a query then attends to its own tokens alone."""
        return dataclasses.replace(
            self,
            tokens=[row[:length] for row in self.tokens],
            groups=tuple(group.cut([int(length)] * len(group.rows)) for group in self.groups),
        )

    def block_until_ready(self: Asked) -> Asked:
        """Waits until phase 1 has run."""
        jax.block_until_ready([group.cache for group in self.groups])
        return self


class Context(Encoded):
    """One encoded context. Ask it as often as you like."""

    is_batch = False


class ContextBatch(Encoded):
    """A batch of encoded contexts: what is asked of it gives a list, with one for each."""

    is_batch = True


def grouped(lengths: Sequence[int], *, data: int) -> list[tuple[int, ...]]:
    """Which rows to encode together: few groups, and in each at most an eighth for nothing.

    A group is also a pass of phase 2, so that rows are not set apart for a few hundred tokens.
    Rows go by as many as the mesh's `data` axis takes side by side, the longest first.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    for first in range(0, len(order), data):
        rows = order[first : first + data]
        joined = [*groups[-1], *rows] if groups else rows
        held = sum(lengths[i] for i in joined)
        waste = lengths[joined[0]] * len(joined) - held
        if groups and waste <= max(held // 8, FEW):
            groups[-1] = joined
        else:
            groups.append(rows)
    return [tuple(sorted(rows)) for rows in groups]


def digest(ids: Sequence[int]) -> bytes:
    """8 bytes that tell one list of token ids from another."""
    return hashlib.blake2b(np.asarray(ids, "<i8").tobytes(), digest_size=8).digest()
