"""Phase 1 in steps: a wave after another, so that others are served, or told, in between."""

from collections.abc import Generator, Iterator, Sequence
from typing import Generic, NamedTuple

import jax

from star_jax.cache.context import Asked
from star_jax.cache.sharded import Cache, Kept, Shards


class Step(NamedTuple):
    """What a step has asked the devices for: `done` tokens of a group are encoded with it."""

    done: int
    kept: Kept

    @classmethod
    def to(cls, end: int, rows: Sequence[Sequence[int]], kept: Kept) -> "Step":
        """The step after which the first `end` tokens of each row are encoded."""
        return cls(sum(min(len(row), end) for row in rows), kept)


# What kinds of attention encode by. The next step may donate what the last one has yielded.
Steps = Generator[Step, None, tuple[Cache, Shards]]


def after(done: int, steps: Steps) -> Steps:
    """The same steps, where `done` tokens of other groups were encoded before."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield Step(done + step.done, step.kept)


class Prefilling(Generic[Asked]):
    """Phase 1 under way. Iterate over it: a step runs one wave, and tells `done`.

    Star Attention encodes a block a device in each step; exact attention takes one step for all
    rows of like length. Nothing runs but when the next step, or `finish`, is asked for; a step
    returns when its wave has run. What was made goes with this object.

    tokens: how many there are to encode, of all rows. done: how many are encoded.
    """

    def __init__(self, steps: Generator[Step, None, Asked], *, tokens: int):
        self.tokens, self.done = tokens, 0
        self._steps = steps
        self._context: Asked | None = None

    def __iter__(self) -> Iterator[int]:
        while (kept := self._advance()) is not None:
            jax.block_until_ready(kept)
            del kept  # the next step may donate it
            yield self.done

    def finish(self) -> Asked:
        """Runs what is left, without waiting in between, and gives the context."""
        while self._advance() is not None:
            pass
        return self.context

    @property
    def context(self) -> Asked:
        """What was encoded.

        Raises:
          ValueError: steps are left.
        """
        if self._context is None:
            raise ValueError(f"{self.done} of {self.tokens} tokens are encoded: finish it first")
        return self._context

    def _advance(self) -> Kept | None:
        """Starts the next step; None where none is left."""
        if self._context is not None:
            return None
        try:
            self.done, kept = next(self._steps)
        except StopIteration as end:
            self._context, self.done = end.value, self.tokens
            return None
        return kept
