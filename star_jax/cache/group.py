"""Rows of a context that were encoded together, and which rows are."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jax.sharding import Mesh

from star_jax.cache.sharded import Cache, Shards, Turns
from star_jax.runtime import mesh as mesh_lib

T = TypeVar("T")

FEW = 512  # tokens of padding that are not worth a pass of their own


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
