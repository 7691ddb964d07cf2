"""Generation: a compiled stride of tokens at a time, and between strides the host's decisions."""

import collections
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax import inputs, query
from star_jax import mesh as mesh_lib
from star_jax.array_typing import Array
from star_jax.cache import KV, bucket
from star_jax.context import Group
from star_jax.models import Decoder
from star_jax.query import Decoding, Ends
from star_jax.sampling import Choice, Sampling, knobs
from star_jax.stopping import Limits, Row

STRIDE = 32  # tokens per call of the decode program; the host looks at the text in between
GROWTH = 4  # times as much room: a long answer compiles few programs


def generate(
    model: Decoder,
    group: Group,
    queries: list[list[int]],
    *,
    rows: list[Row],
    limits: Limits,
    sampling: Sampling,
    seeds: list[int],
    prompts: list[int],
    implementation: str,
    stride: int = STRIDE,
) -> Iterator[None]:
    """Asks one query of each row of a group, until all answers have ended; yields as they grow.

    The devices are a stride ahead of the host, so that they do not wait for it to read. Where
    there are stop words they do wait: what follows one would be for nothing. Room for the tokens
    is made as they come: a high limit costs nothing.

    Seven arrays go to the devices before the first token, and after it none (where there are stop
    words, one when a row has met its own). Two come back for the first token and for each stride:
    for 64 tokens seven and six.

    rows: the answers, as many for every query as there are samples. seeds, prompts: of each
    query; see `sampling.knobs`. stride: tokens between two yields, at most `STRIDE`.

    Raises:
      ValueError: logits are not finite.
    """
    cache, mesh, samples = group.cache, group.mesh, len(rows) // len(queries)
    programs = query.programs(model.config, mesh, implementation, STRIDE, sampling.mode)
    put = mesh_lib.putter(mesh)
    vocab_size = model.config.vocab_size if sampling.mode.penalises else 0
    seen = put(inputs.seen(group, queries, samples=samples, vocab_size=vocab_size), mesh_lib.QUERY)
    numbers = knobs(
        sampling, seeds=seeds, prompts=prompts, batch=group.batch, samples=samples, put=put
    )
    most = [limits.max_new_tokens, stride, *limits.eos]
    ends = Ends(put(np.asarray(most, np.int32), mesh_lib.WHOLE))
    question = inputs.question(group, queries)
    tail, first, state = programs.ask(model, cache, question, numbers, seen, ends)
    waiting = collections.deque([first])
    ahead = 0 if limits.stop else 1
    made = 1  # tokens of an answer, at most, in what was called
    stopped = 0  # rows that the devices know to have ended at a stop word
    while True:
        while made < limits.max_new_tokens and len(waiting) <= ahead:
            state = _with_room(state, made - 1 + stride, most=limits.max_new_tokens, mesh=mesh)
            new, state = programs.decode(model, cache, tail, state, numbers, ends)
            waiting.append(new)
            made += stride
        _extend(rows, waiting.popleft(), cache.kv.k[0].dtype)
        yield
        ended = [row.stop_reason is not None for row in rows]
        if all(ended):
            return
        if (now := sum(row.stop_reason == "stop" for row in rows)) > stopped:
            stopped = now
            done = np.ones(state.done.shape, bool)
            done[: len(rows)] = ended
            state = state._replace(done=put(done))


def check_finite(values: np.ndarray, dtype: object) -> None:
    """Raises ValueError if the model has overflowed; its answers would be noise, or nothing."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"non-finite logits: the model overflows in dtype={str(dtype)!r}, or its weights are "
            "not finite. Nothing was answered; try dtype='bfloat16' or 'float32', or another "
            "checkpoint"
        )


def _extend(rows: list[Row], new: Choice, dtype: object) -> None:
    """Adds the tokens that were made to each row; those of a row that has ended are negative."""
    made, logprobs = jax.device_get((new.token, new.logprob))
    for row, tokens, values in zip(rows, made, logprobs, strict=False):
        there = tokens >= 0
        check_finite(values[there], dtype)
        row.extend(tokens[there].tolist(), values[there].tolist())


def _with_room(state: Decoding, needed: int, *, most: int, mesh: Mesh) -> Decoding:
    """The state with room for the K/V of `needed` generated tokens, or of `most`."""
    room = state.generated.k[0].shape[1]
    needed = min(needed, most)
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
