"""Questions on the devices: a compiled stride of tokens at a time, a stride ahead of the host."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax.array_typing import Array
from star_jax.cache.group import Group
from star_jax.cache.sharded import KV, bucket, join
from star_jax.generate import compiled, inputs
from star_jax.generate.compiled import Decoding, Ends, Programs
from star_jax.generate.sampling import GREEDY, Choice, Sampling, arrays_of
from star_jax.generate.stopping import Limits, Row
from star_jax.models import Decoder
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Runtime

GROWTH = 4  # times as much room: a long answer compiles few programs


@dataclasses.dataclass(frozen=True)
class Part:
    """Questions that are asked together, of the rows of one group.

    of_rows: [row][question], token ids; which: where each stands among all questions.
    """

    group: Group
    of_rows: list[list[list[int]]]
    which: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all answers of a generation have in common. `stride`: tokens between two events."""

    limits: Limits
    sampling: Sampling
    samples: int
    stride: int


class Run:
    """The questions of a part, on the devices.

    The devices are a stride ahead of the host, so that they do not wait for it to read. Where
    there are stop words they do wait: what follows one would be for nothing. Room for the tokens
    is made as they come: a high limit costs nothing.

    Seven arrays go to the devices before the first token, and after it none (where there are stop
    words, one when a row has met its own). Two come back for the first token and for each stride:
    for 64 tokens seven and six.
    """

    def __init__(
        self,
        model: Decoder,
        runtime: Runtime,
        part: Part,
        settings: Settings,
        rows: Sequence[Row],
        seeds: Sequence[int],
        prompts: Sequence[int],
    ):
        group, samples, sampling = part.group, settings.samples, settings.sampling
        which = inputs.slots(group, part.which, -1)
        numbered = [range(i * samples, (i + 1) * samples) if i >= 0 else () for i in which]
        self._rows = [
            rows[row[s]] if row else None for row in numbered for s in range(samples)
        ]  # None for padding
        self._model, self._runtime, self._part, self._settings = model, runtime, part, settings
        put = runtime.put
        self._programs = self._compiled(sampling)
        vocab_size = model.config.vocab_size if sampling.mode.penalises else 0
        seen = inputs.seen(group, part.of_rows, samples=samples, vocab_size=vocab_size)
        self._how = arrays_of(
            sampling,
            seeds=[seeds[i] if i >= 0 else 0 for i in which],
            prompts=[prompts[i] if i >= 0 else 0 for i in which],
            samples=samples,
            put=put,
        )
        limits = settings.limits
        ends = [limits.max_new_tokens, settings.stride, *limits.eos]
        self._ends = Ends(put(np.asarray(ends, np.int32), mesh_lib.WHOLE))
        self._tail, first, self._state = self._programs.ask(
            model,
            group.cache,
            inputs.question(group, part.of_rows),
            self._how,
            put(seen, mesh_lib.QUERY),
            self._ends,
        )
        self._waiting = collections.deque([first])
        self._made = 1  # tokens of an answer, at most, in what was called
        self._stopped = 0  # rows that the devices were told to have ended

    def step(self) -> bool:
        """Adds a stride of tokens to the answers; whether any went on.

        Raises:
          ValueError: logits are not finite.
        """
        rows = [row for row in self._rows if row is not None]
        if all(row.stop_reason is not None for row in rows):
            self._waiting.clear()
            return False
        self._tell_stopped(rows)
        group, limits, stride = self._part.group, self._settings.limits, self._settings.stride
        ahead = 0 if limits.stop else 1
        while self._made < limits.max_new_tokens and len(self._waiting) <= ahead:
            needed = min(self._made - 1 + stride, limits.max_new_tokens)
            self._state = _with_room(self._state, needed, limits.max_new_tokens, group.mesh)
            new, self._state = self._programs.decode(
                self._model, group.cache, self._tail, self._state, self._how, self._ends
            )
            self._waiting.append(new)
            self._made += stride
        _extend(self._rows, self._waiting.popleft(), jax.tree.leaves(self._model)[0].dtype)
        return True

    def followed_by(self, tokens: list[list[int]]) -> Group:
        """The group with question and answer in it; `tokens` are all of each row of the context.

        There is one answer to each row.
        """
        group, state = self._part.group, self._state
        whole = group.of(tokens)
        step = int(mesh_lib.fetch(state.step))
        answers = [0 if row is None else len(row.tokens) for row in self._rows]
        valid = [min(n, step) for n in answers]
        kept = [(self._tail.query, self._tail.query_length)]
        kept.append((state.generated, self._runtime.put(np.asarray(valid, np.int32))))
        if group.cache.turns is not None:
            kept.insert(0, group.cache.turns)
        lengths = [len(row) - n for row, n in zip(whole, group.encoded, strict=True)]
        size = bucket(max(lengths))
        turns = join(*kept, size=size, mesh=group.mesh)
        last = [row[len(row) - (n - m) :] for row, n, m in zip(whole, answers, valid, strict=False)]
        if any(last):
            before = [row[: len(row) - len(ids)] for row, ids in zip(whole, last, strict=True)]
            group = group.followed_by(before, turns)
            asked = inputs.question(group, [[ids] for ids in last])
            kv = self._compiled(GREEDY, turns=True).keep(self._model, group.cache, asked)
            turns = join(turns, (kv, asked.length), size=size, mesh=group.mesh)
        return group.followed_by(whole, turns)

    def _compiled(self, sampling: Sampling, turns: bool | None = None) -> Programs:
        group = self._part.group
        if turns is None:
            turns = group.cache.turns is not None
        return compiled.programs(self._runtime.keeping(group.cache.kind), sampling.mode, turns)

    def _tell_stopped(self, rows: Sequence[Row]) -> None:
        """Tells the devices which rows have ended that they cannot know of, if any are new.

        They see EOS. Stop words, a limit of one row alone and a cancelled row they do not see.
        """
        now = sum(row.stop_reason not in (None, "eos") for row in rows)
        if now > self._stopped:
            self._stopped = now
            done = [row is None or row.stop_reason is not None for row in self._rows]
            self._state = self._state._replace(done=self._runtime.put(np.asarray(done)))


def check_finite(values: np.ndarray, dtype: object) -> None:
    """Raises ValueError if the model has overflowed; its answers would be noise, or nothing."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"non-finite logits: the model overflows in dtype={str(dtype)!r}, or its weights are "
            "not finite. Nothing was answered; try dtype='bfloat16' or 'float32', or another "
            "checkpoint"
        )


def _extend(rows: Sequence[Row | None], new: Choice, dtype: object) -> None:
    """Adds the tokens that were made to each row; those of a row that has ended are negative."""
    made, logprobs = mesh_lib.fetch((new.token, new.logprob))
    for row, tokens, values in zip(rows, made, logprobs, strict=True):
        if row is None:
            continue
        there = tokens >= 0
        check_finite(values[there], dtype)
        row.extend(tokens[there].tolist(), values[there].tolist())


def _with_room(state: Decoding, needed: int, most: int, mesh: Mesh) -> Decoding:
    """The state with room for the K/V of `needed` generated tokens, at most of `most`."""
    room = state.generated.k[0].shape[1]
    if needed <= room:
        return state
    while room < needed:
        room = min(GROWTH * room, bucket(most))
    return state._replace(generated=_grow(mesh, room)(state.generated))


@functools.cache
def _grow(mesh: Mesh, length: int) -> Callable[[KV], KV]:
    def longer(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)))

    def grow(generated: KV) -> KV:
        return jax.tree.map(longer, generated)

    return jax.jit(grow, out_shardings=NamedSharding(mesh, mesh_lib.TAIL))
