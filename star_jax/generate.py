"""Generation: a compiled stride of tokens at a time, and between strides the host's decisions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax import mesh as mesh_lib
from star_jax import query
from star_jax.array_typing import Array
from star_jax.cache import KV, Cache, bucket
from star_jax.models.llama import Llama

STRIDE = 32  # tokens per call of the decode program; the host looks at the text in between

StopReason = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated answer.

    tokens: without EOS; they end with the token that completed a stop word, if one did.
    text: the decoded tokens without the stop word; None without a tokenizer.
    stop_reason: `eos`, `stop` (a stop word), or `length` (max_new_tokens).
    """

    tokens: list[int]
    text: str | None
    stop_reason: StopReason


@dataclasses.dataclass(frozen=True)
class Limits:
    """When generation ends."""

    max_new_tokens: int
    stop: tuple[str, ...]
    eos: tuple[int, ...]  # empty: EOS is a token like any other


class Row:
    """The answer of one row, as it grows."""

    def __init__(self, limits: Limits, decode: Callable[..., str] | None):
        self.limits = limits
        self.decode = decode
        self.tokens: list[int] = []
        self.stop_reason: StopReason | None = None

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds generated tokens, as far as the answer goes."""
        before = len(self.tokens)
        for token in tokens:
            if self.stop_reason is not None:
                break
            if token in self.limits.eos:
                self.stop_reason = "eos"
            else:
                self.tokens.append(token)
                if len(self.tokens) == self.limits.max_new_tokens:
                    self.stop_reason = "length"
        self._stop_at_word(before)

    def _stop_at_word(self, before: int) -> None:
        if self.decode is None or not self.limits.stop:
            return
        if not self._has_stop(self.decode(self.tokens)):
            return
        for count in range(before + 1, len(self.tokens) + 1):
            if self._has_stop(self.decode(self.tokens[:count])):
                self.tokens, self.stop_reason = self.tokens[:count], "stop"
                return

    def _has_stop(self, text: str) -> bool:
        return any(word in text for word in self.limits.stop)

    def answer(self) -> Answer:
        """The answer so far."""
        text = None
        if self.decode is not None:
            # A stop word that is a special token is not in this text; its token is the last.
            text = self.decode(self.tokens, skip_special_tokens=True)
            text = text[: min((text.find(w) for w in self.limits.stop if w in text), default=None)]
        return Answer(self.tokens, text, self.stop_reason or "length")


def generate(
    model: Llama,
    cache: Cache,
    *,
    tokens: np.ndarray,
    lengths: np.ndarray,
    starts: np.ndarray,
    rows: list[Row],
    limits: Limits,
    mesh: Mesh,
    implementation: str,
) -> None:
    """Asks one query per row, and extends each of `rows` until it has ended.

    tokens [B, T], lengths [B]: the queries, padded on the right. starts [B]: the lengths of
    the contexts. Rows of the batch beyond `rows` are padding of the batch.
    """
    programs = query.programs(model.config, mesh, implementation, STRIDE)
    put = mesh_lib.putter(mesh)
    tail, token = programs.ask(model, cache, put(tokens, mesh_lib.QUERY), put(lengths), put(starts))
    _extend(rows, np.asarray(token)[:, None])
    done = np.ones(len(tokens), bool)
    done[: len(rows)] = _ended(rows)
    state = query.Decoding(
        generated=_room(tail.query, bucket(limits.max_new_tokens), mesh=mesh),
        token=token,
        step=put(np.int32(0), mesh_lib.WHOLE),
        done=put(done),
    )
    eos = put(np.asarray(limits.eos, np.int32), mesh_lib.WHOLE)
    step = 1
    while not done.all():
        count = min(STRIDE, limits.max_new_tokens - step)
        new, state = programs.decode(
            model, cache, tail, state, eos, put(np.int32(count), mesh_lib.WHOLE)
        )
        step += count
        _extend(rows, np.asarray(new)[:, :count])
        done[: len(rows)] = _ended(rows)
        state = state._replace(done=put(done))


def _extend(rows: list[Row], new: np.ndarray) -> None:
    for row, tokens in zip(rows, new.tolist(), strict=False):
        row.extend([t for t in tokens if t >= 0])


def _ended(rows: list[Row]) -> list[bool]:
    return [row.stop_reason is not None for row in rows]


def _room(like: KV, length: int, *, mesh: Mesh) -> KV:
    """Zeros for the K/V of `length` generated tokens."""
    sharding = NamedSharding(mesh, mesh_lib.TAIL)

    def zeros(x: Array) -> Array:
        return jnp.zeros((x.shape[0], length, *x.shape[2:]), x.dtype, device=sharding)

    return KV(tuple(map(zeros, like.k)), tuple(map(zeros, like.v)))
