"""Generation: answers under way, told as events, and the context to go on from."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Generic

import numpy as np

from star_jax.cache.context import Asked, Encoded
from star_jax.cache.group import Group
from star_jax.generate import inputs
from star_jax.generate.inputs import Questions
from star_jax.generate.run import Part, Run, Settings
from star_jax.generate.sampling import row_seeds
from star_jax.generate.stopping import Answer, Event, Row
from star_jax.models import Decoder
from star_jax.runtime import processes
from star_jax.runtime.runtime import Runtime


class Generation(Generic[Asked]):
    """Answers under way. Iterate over it for events; each tells what is new of one answer.

    `answers` are in the order of contexts, questions and samples, as `Event.index` counts them.
    Nothing runs but when the next event, or `finish`, is asked for. With `keep`, what the devices
    hold of answers that have ended is kept for `context`.
    """

    def __init__(
        self,
        model: Decoder,
        runtime: Runtime,
        context: Asked,
        questions: Questions,
        settings: Settings,
        *,
        decode: Callable[..., str] | None = None,
        probe: int | None = None,
        keep: bool = True,
    ):
        sampling = settings.sampling
        draws = sampling.mode.draws
        self._prompts = [0] * len(questions.flat)
        if draws:
            hashes = inputs.prompts(context, questions.of_rows)
            self._prompts = [one for row in hashes for one in row]
        self._seeds = row_seeds(sampling, self._prompts)
        if draws and sampling.seed is None:  # all processes draw alike
            self._seeds = processes.of_first(lambda: self._seeds, runtime.mesh)
        self._rows = [
            Row(settings.limits, decode, probe, seed if draws else None)
            for seed in self._seeds
            for _ in range(settings.samples)
        ]
        self._model, self._runtime, self._settings, self._keep = model, runtime, settings, keep
        self._asked, self._questions = context, questions
        self._left = collections.deque(_parts(context, questions))
        self._runs: list[Run] = []

    def __iter__(self) -> Iterator[Event]:
        while self._advance():
            yield from self._news()

    def advance(self) -> list[Event] | None:
        """Goes on by one stride, and no more; what is new, or None if all answers had ended.

        For those who have several generations under way, and go on with them in turn.
        """
        return list(self._news()) if self._advance() else None

    @property
    def answers(self) -> list[Answer]:
        """The answers so far."""
        return [row.answer() for row in self._rows]

    @property
    def answer(self) -> Answer:
        """The answer so far, where there is one.

        Raises:
          ValueError: there are several.
        """
        if len(self._rows) != 1:
            raise ValueError(f"there are {len(self._rows)} answers: see `answers`")
        return self._rows[0].answer()

    def finish(self) -> list[Answer]:
        """Runs until all answers have ended."""
        while self._advance():
            pass
        return self.answers

    def limit(self, index: int, max_new_tokens: int) -> None:
        """Ends one of the answers after so many tokens, which are fewer than the others' limit."""
        row = self._rows[index]
        row.limits = dataclasses.replace(row.limits, max_new_tokens=max_new_tokens)

    def cancel(self, index: int | None = None) -> None:
        """Ends all answers as they are, and lets go of what the devices hold for them.

        With `index` it ends that one alone: the others go on, and it takes no more time.
        """
        if index is not None:
            row = self._rows[index]
            row.stop_reason = row.stop_reason or "cancelled"
            return
        self._left.clear()
        self._runs.clear()
        for row in self._rows:
            row.stop_reason = row.stop_reason or "cancelled"

    @property
    def context(self) -> Asked:
        """The context with question and answer (without EOS) in it, to go on from.

        Nothing is encoded again but the last token of the answer, which has not gone through
        the model yet.

        Raises:
          ValueError: nothing was generated yet, or it was cancelled; a context was asked
            several questions, or has several answers.
        """
        if self._left or not self._runs:
            raise ValueError("there is no context to go on from: nothing is generated, or kept")
        asked = [len(row) for row in self._questions.of_rows]
        if set(asked) != {1} or self._settings.samples != 1:
            raise ValueError("several answers to one context: go on from one of them alone")
        if len(self._runs) != len(self._asked.groups):
            raise ValueError("some queries are empty and some are not: ask them apart to go on")
        tokens = [
            [*told, *row[0], *answer.tokens]
            for told, row, answer in zip(
                self._asked.tokens, self._questions.of_rows, self._rows, strict=True
            )
        ]
        groups = tuple(run.followed_by(tokens) for run in self._runs)
        return dataclasses.replace(self._asked, tokens=tokens, groups=groups)

    def _news(self) -> Iterator[Event]:
        found = (row.news(i) for i, row in enumerate(self._rows))
        return (event for event in found if event is not None)

    def _advance(self) -> bool:
        """Goes on by a stride; whether there was anything to do."""
        try:
            if self._runs and self._runs[-1].step():
                return True
            if not self._keep:
                self._runs.clear()
            if not self._left:
                return False
            part = self._left.popleft()
            run = Run(
                self._model,
                self._runtime,
                part,
                self._settings,
                self._rows,
                self._seeds,
                self._prompts,
            )
            self._runs.append(run)
            return run.step()
        except BaseException:
            self.cancel()  # arrays that were donated are not there any more
            raise


def _parts(context: Encoded, questions: Questions) -> Iterator[Part]:
    """The questions of each group. An empty one is the context's last token, asked of the rest."""
    first = np.cumsum([0, *map(len, questions.of_rows)]).tolist()
    for group in context.groups:
        numbered = [list(enumerate(questions.of_rows[r], start=first[r])) for r in group.rows]
        for empty in (False, True):
            chosen = [[(i, ids) for i, ids in row if (not ids) == empty] for row in numbered]
            if not any(chosen):
                continue
            of_rows = [[ids for _, ids in row] for row in chosen]
            asked = group
            if empty:
                asked, of_rows = _last_asked(group, list(map(len, of_rows)))
            yield Part(asked, of_rows, [[i for i, _ in row] for row in chosen])


def _last_asked(group: Group, queries: list[int]) -> tuple[Group, list[list[list[int]]]]:
    """The group without the last token of the rows that have queries, and that token as each.

    Raises:
      NotImplementedError: some of a row's keys were chosen with its last token among them.
    """
    lengths = [len(row) - bool(n) for row, n in zip(group.tokens, queries, strict=True)]
    for length, encoded in zip(lengths, group.encoded, strict=True):
        if group.shards.longest(length, encoded) < length:
            raise NotImplementedError(
                f"an empty query of a context of {length + 1} tokens that keeps fewer keys: they "
                "were chosen with its last token among them; encode the context without its last "
                "token, and ask that token as the query"
            )
    asked = [[row[-1:]] * n for row, n in zip(group.tokens, queries, strict=True)]
    return group.cut(lengths), asked
