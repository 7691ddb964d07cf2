"""Fewer keys: of each block a share of the keys is kept, chosen when the block has been encoded.

The choice is made without a question, so that one context serves them all. Each layer and each key
head makes its own; all heads of a block keep equally many, so that the valid keys of a device stay
a prefix of its shard. Layers with windows keep all keys.

The anchor is kept whole: extending a context reads it, and what attends to the first tokens for
want of anything better finds them. The first block therefore keeps more keys than the others. So
that no device needs more room, those of the anchor that are too many for the first block's own
place are dealt out to all devices: `cache.in_two` has a device's part of these, and then what is
kept of one block after the other.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from star_jax.cache.sharded import ROUND, Shards, eighths
from star_jax.models import DecoderConfig
from star_jax.prefill.criteria import CRITERIA, NEED_QUERIES
from star_jax.sizes import shown

PARTS = 10**6  # shares are counted in these, so that a tenth of thirty is three


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """The share of a context's keys that is kept, above 0 and at most 1, and what chooses them.

    criterion: one of `criteria.CRITERIA`.
    """

    share: float | int
    criterion: str

    def __post_init__(self) -> None:
        share = self.share
        if isinstance(share, bool) or not isinstance(share, int | float | np.number):
            raise ValueError(f"share={shown(share)} must be a number above 0, at most 1")
        if not 1 / PARTS <= share <= 1:
            raise ValueError(f"share={shown(share)} must be above 0, and at most 1")
        # As it is counted, so that shares that keep the same keys have one name.
        object.__setattr__(self, "share", round(float(share) * PARTS) / PARTS)
        if not isinstance(self.criterion, str) or self.criterion not in CRITERIA:
            raise ValueError(f"criterion={shown(self.criterion)} must be one of {[*CRITERIA]}")

    @property
    def label(self) -> str:
        return f"keep{self.share:g}_{self.criterion}"

    def of(self, tokens: int) -> int:
        """How many of so many tokens are kept: the share, rounded up."""
        return -(-tokens * round(self.share * PARTS) // PARTS)

    def check(self, config: DecoderConfig, *, tensor: int) -> None:
        """Raises NotImplementedError if it cannot choose keys of this model on such a mesh."""
        if all(layer.window is not None for layer in config.layers):
            raise NotImplementedError(f"{self} of a model whose layers all have windows")
        if self.criterion in NEED_QUERIES and config.num_kv_heads < tensor:
            raise NotImplementedError(
                f"criterion={self.criterion!r} with {tensor=} devices for {config.num_kv_heads} "
                "key heads: each device has some of a head's queries only; use fewer, or a "
                f"criterion of keys: {sorted(CRITERIA.keys() - NEED_QUERIES)}"
            )


@dataclasses.dataclass(frozen=True)
class Slots:
    """How many keys of a block are kept, and where they lie in the shards.

    block, anchor: tokens of each. devices: of the mesh's `context` axis.
    """

    keep: Keep
    block: int
    anchor: int
    devices: int

    @functools.cached_property
    def keys(self) -> int:
        """Of a block, in its own place."""
        return self.keep.of(self.block)

    @functools.cached_property
    def shared(self) -> int:
        """How many of the anchor's first keys are dealt out to all devices."""
        return self.anchor + self.keep.of(self.block - self.anchor) - self.keys

    @property
    def part(self) -> int:
        """How many of these a device has room for."""
        return -(-self.shared // self.devices // ROUND) * ROUND

    @functools.cached_property
    def firsts(self) -> tuple[int, ...]:
        """How many of these each device has."""
        return tuple(
            min(max(self.shared - self.part * c, 0), self.part) for c in range(self.devices)
        )

    def room(self, waves: int) -> int:
        """How many keys of blocks each device has room for."""
        return -(-eighths(waves) * self.keys // ROUND) * ROUND

    def kept(self, start: int, valid: int) -> int:
        """How many keys the block that begins at `start` keeps of `valid` tokens in its place."""
        if start:
            return self.keep.of(valid)
        inside = min(valid, self.anchor)
        return inside + self.keep.of(valid - inside) - min(valid, self.shared)

    def filled(
        self, starts: Sequence[int], lengths: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of contexts of these lengths, in the blocks that begin there: tokens, and keys kept.

        Returns: int32 [B, blocks] each.
        """
        valid = np.clip(np.asarray(lengths)[:, None] - np.asarray(starts), 0, self.block)
        kept = [
            [self.kept(start, int(n)) for start, n in zip(starts, row, strict=True)]
            for row in valid
        ]
        return valid.astype(np.int32), np.asarray(kept, np.int32)


def longest_part(length: int, *, block: int, anchor: int) -> int:
    """The longest part of at most `length` tokens of a longer context: blocks, or of the anchor."""
    return length if length <= anchor else max(length - length % block, anchor)


@dataclasses.dataclass(frozen=True)
class KeptShards(Shards):
    """Shards of contexts of these lengths that keep some of their keys only."""

    slots: Slots
    lengths: tuple[int, ...]

    def longest(self, length: int, encoded: int) -> int:
        """See `Shards.longest`: all of it, a part of the anchor, or whole blocks."""
        if length >= encoded:
            return length
        return longest_part(length, block=self.size, anchor=self.slots.anchor)

    def valid(self, lengths: list[int]) -> np.ndarray:
        """See `Shards.valid`.

        Raises:
          NotImplementedError: contexts are cut within a block: its keys were chosen as a whole.
        """
        for length, encoded in zip(lengths, self.lengths, strict=True):
            if self.longest(length, encoded) < length:
                raise NotImplementedError(
                    f"the first {length} tokens of a context of which {self.slots.keep} chose the "
                    f"keys: it can be cut at multiples of {self.size} tokens, the block"
                )
        shared, part = self.slots.shared, self.slots.part
        found = []
        for c, starts in enumerate(self.starts):
            _, kept = self.slots.filled(starts, lengths)
            spread = np.clip(np.minimum(lengths, shared) - c * part, 0, part)
            found.append(kept.sum(axis=1) + spread)
        return np.stack(found, axis=1).astype(np.int32)
