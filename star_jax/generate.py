"""Generation: a compiled stride of tokens at a time, and between strides the host's decisions."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax import mesh as mesh_lib
from star_jax import query
from star_jax.array_typing import Array
from star_jax.cache import KV, Cache, bucket
from star_jax.models.llama import Llama
from star_jax.sampling import Choice, Knobs, Mode
from star_jax.stopping import Limits, Row

STRIDE = 32  # tokens per call of the decode program; the host looks at the text in between


def generate(
    model: Llama,
    cache: Cache,
    *,
    tokens: np.ndarray,
    lengths: np.ndarray,
    starts: np.ndarray,
    seen: np.ndarray,
    rows: list[Row],
    limits: Limits,
    knobs: Knobs,
    mode: Mode,
    mesh: Mesh,
    implementation: str,
    stride: int = STRIDE,
) -> Iterator[None]:
    """Asks one query per context, and extends `rows` until all have ended; yields as they grow.

    tokens [B, T], lengths [B]: the queries, padded on the right. starts [B]: the lengths of
    the contexts. rows: of each context, one per sample, without those of padding. seen [R, V or
    0]: see `sampling.choose`. stride: tokens between two yields, at most `STRIDE`.
    """
    programs = query.programs(model.config, mesh, implementation, STRIDE, mode)
    put = mesh_lib.putter(mesh)
    tail, first, marked = programs.ask(
        model,
        cache,
        put(tokens, mesh_lib.QUERY),
        put(lengths),
        put(starts),
        knobs,
        put(seen, mesh_lib.QUERY),
    )
    _extend(rows, Choice(first.token[:, None], first.logprob[:, None]), 1)
    yield
    done = np.ones(len(seen), bool)
    done[: len(rows)] = _ended(rows)
    state = query.Decoding(
        generated=_room(tail.query, len(seen), bucket(limits.max_new_tokens), mesh=mesh),
        token=first.token,
        step=put(np.int32(0), mesh_lib.WHOLE),
        done=put(done),
        seen=marked,
    )
    eos = put(np.asarray(limits.eos, np.int32), mesh_lib.WHOLE)
    step = 1
    while not done.all():
        count = min(stride, limits.max_new_tokens - step)
        new, state = programs.decode(
            model, cache, tail, state, knobs, eos, put(np.int32(count), mesh_lib.WHOLE)
        )
        step += count
        _extend(rows, new, count)
        yield
        done[: len(rows)] = _ended(rows)
        state = state._replace(done=put(done))


def _extend(rows: list[Row], new: Choice, count: int) -> None:
    """Adds up to `count` tokens to each row; those of a row that has ended are negative."""
    made, logprobs = np.asarray(new.token)[:, :count], np.asarray(new.logprob)[:, :count]
    for row, tokens, values in zip(rows, made, logprobs, strict=False):
        there = tokens >= 0
        row.extend(tokens[there].tolist(), values[there].tolist())


def _ended(rows: list[Row]) -> list[bool]:
    return [row.stop_reason is not None for row in rows]


def _room(like: KV, rows: int, length: int, *, mesh: Mesh) -> KV:
    """Zeros for the K/V of `length` generated tokens in each row."""
    sharding = NamedSharding(mesh, mesh_lib.TAIL)

    def zeros(x: Array) -> Array:
        return jnp.zeros((rows, length, *x.shape[2:]), x.dtype, device=sharding)

    return KV(tuple(map(zeros, like.k)), tuple(map(zeros, like.v)))
