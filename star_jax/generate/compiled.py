"""The compiled programs of phase 2: a query is asked of a sharded context; see `attention`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from star_jax.array_typing import (
    Array,
    Float,
    Hidden,
    PerSample,
    Tokens,
)
from star_jax.cache.sharded import KV, Cache, Turns
from star_jax.generate.attention import QueryAttention, QueryState, Tail, TokenAttention
from star_jax.generate.sampling import Choice, Mode, SamplingArrays, choose, layout
from star_jax.models import Decoder
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import DATA, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once

LOGITS_AT_ONCE = 128  # tokens whose logits are held at a time: of 8K they may be gigabytes
STRIDE = 32  # tokens per call of the decode program; the host looks at the text in between
ROOM = 128  # generated tokens that there is room for at first; see `generation.Run`


class Question(NamedTuple):
    """Queries, padded on the right: Q / B of each context, one after another.

    A query of no token is padding.
    """

    tokens: Array  # [Q, T]
    length: Array  # [Q], of the query
    start: Array  # [Q], of the context: where the query starts


class Decoding(NamedTuple):
    """Generation under way, of R / Q samples for each query; donated from call to call."""

    generated: KV  # [R, S, K, H], K/V of the first `step` generated tokens
    token: Array  # [R], the last one generated, whose K/V are not there yet
    step: Array  # [], how many tokens went through the model
    done: Array  # [R], whether a row has ended
    seen: Array  # [R, V], tokens that are penalised; [R, 0] if none are


class Ends(NamedTuple):
    """Where generation, and one call of it, ends."""

    numbers: Array  # [2 + E]: tokens of an answer, tokens of a call, EOS ids

    @property
    def most(self) -> Array:
        return self.numbers[0]

    @property
    def stride(self) -> Array:
        return self.numbers[1]

    def reached(self, token: PerSample) -> Array:
        """Whether each token is an EOS."""
        return jnp.isin(token, self.numbers[2:])


# What the loop over tokens carries: how many there are so far, what was chosen [R, STRIDE], the
# state, and whether any row goes on.
Loop = tuple[Array, Choice, Decoding, Array]


class Programs(NamedTuple):
    """The programs of phase 2, compiled per (capacity, query bucket, room for generated tokens).

    hidden(model, cache, Question) -> what the LM head reads [Q, T, D]
    logits(model, hidden, first []) -> logits of `LOGITS_AT_ONCE` tokens, or of all [Q, T, V]
    likelihood(model, cache, Question, next [Q, T]) -> log-probabilities [Q, T], NaN as in `Choice`
    keep(model, cache, Question) -> K/V of its tokens [Q, T, K, H]
    ask(model, cache, Question, how, seen, Ends) -> (Tail, first Choice [R, 1], Decoding)
    decode(model, cache, tail, Decoding, how, Ends) -> (Choice [R, STRIDE], Decoding)
    """

    hidden: Wrapped
    logits: Wrapped
    likelihood: Wrapped
    keep: Wrapped
    ask: Wrapped
    decode: Wrapped


@compiled_once
def programs(runtime: Runtime, mode: Mode, turns: bool = False) -> Programs:
    """See `Programs`. `decode` generates at most `STRIDE` tokens a call, chosen as `mode` says.

    turns: whether the contexts have earlier turns of a dialogue.
    """
    hidden, logits, likelihood, keep = _scoring(runtime, turns)
    rows, query, tail = mesh_lib.ROWS, mesh_lib.QUERY, mesh_lib.TAIL
    read = runtime.weights, _cache_layout(runtime, turns)  # by both
    question = Question(query, rows, rows)  # type: ignore[arg-type]
    tails = Tail(tail, rows, rows, tail)  # type: ignore[arg-type]
    state = Decoding(tail, rows, P(), rows, query)  # type: ignore[arg-type]
    made = Choice(query, query)  # type: ignore[arg-type]
    asking, decoding = (*read, question, layout(), query, P()), (*read, tails, state, layout(), P())
    return Programs(
        hidden=hidden,
        logits=logits,
        likelihood=likelihood,
        keep=keep,
        ask=runtime.program(_ask(runtime, mode), asking, (tails, made, state)),
        decode=runtime.program(_decode(runtime, mode), decoding, (made, state), donate_argnums=3),
    )


def _ask(runtime: Runtime, mode: Mode) -> Callable[..., tuple[Tail, Choice, Decoding]]:
    def ask(
        model: Decoder,
        cache: Cache,
        question: Question,
        how: SamplingArrays,
        seen: Array,
        ends: Ends,
    ) -> tuple[Tail, Choice, Decoding]:
        hidden, (kv, recent) = _run_query(model, cache, question, runtime)
        last = jnp.maximum(question.length - 1, 0)[:, None, None]
        hidden = jnp.take_along_axis(hidden, last, axis=1)  # [B, T, D] -> [B, 1, D]
        logits = model.logits(hidden, axis=TENSOR)[:, 0]
        rows = how.keys.shape[0]
        samples = rows // logits.shape[0]
        choice = choose(jnp.repeat(logits, samples, axis=0), how, seen, 0, mode=mode)
        is_padding = jnp.repeat(question.length == 0, samples)
        state = Decoding(
            generated=jax.tree.map(lambda x: jnp.zeros((rows, ROOM, *x.shape[2:]), x.dtype), kv),
            token=choice.token,
            step=jnp.int32(0),
            done=is_padding | ends.reached(choice.token),
            seen=_mark(seen, choice.token),
        )
        tail = Tail(kv, question.length, question.start + question.length, recent)
        return tail, Choice(choice.token[:, None], choice.logprob[:, None]), state

    return ask


def _decode(runtime: Runtime, mode: Mode) -> Callable[..., tuple[Choice, Decoding]]:
    def decode(
        model: Decoder,
        cache: Cache,
        tail: Tail,
        state: Decoding,
        how: SamplingArrays,
        ends: Ends,
    ) -> tuple[Choice, Decoding]:
        rows = state.token.shape[0]
        start = jnp.repeat(tail.start, rows // tail.start.shape[0])

        def body(carry: Loop) -> Loop:
            i, made, state, _ = carry
            attend = TokenAttention(cache, tail, state.step, runtime)
            positions = (start + state.step)[:, None]
            token, generated = state.token[:, None], state.generated
            hidden, kv = model.run(token, positions, attend, generated, axis=TENSOR)
            logits = model.logits(hidden, axis=TENSOR)[:, 0]
            step = state.step + 1
            choice = choose(logits, how, state.seen, step, mode=mode)
            made = Choice(
                made.token.at[:, i].set(jnp.where(state.done, -1, choice.token)),
                made.logprob.at[:, i].set(choice.logprob),
            )
            done = state.done | ends.reached(choice.token)
            state = Decoding(kv, choice.token, step, done, _mark(state.seen, choice.token))
            return i + 1, made, state, _any_left(done)

        def cond(carry: Loop) -> Array:
            i, _, state, left = carry
            return left & (i < ends.stride) & (state.step + 1 < ends.most)

        none = Choice(jnp.full((rows, STRIDE), -1, jnp.int32), jnp.zeros((rows, STRIDE)))
        carry = (jnp.int32(0), none, state, _any_left(state.done))
        _, made, state, _ = jax.lax.while_loop(cond, body, carry)
        return made, state

    return decode


@compiled_once
def _scoring(runtime: Runtime, turns: bool) -> tuple[Wrapped, Wrapped, Wrapped, Wrapped]:
    """`hidden`, `logits`, `likelihood` and `keep`, which choose nothing."""

    def hidden(model: Decoder, cache: Cache, question: Question) -> Hidden:
        return _run_query(model, cache, question, runtime)[0]

    def logits(model: Decoder, hidden: Hidden, first: Array) -> Float[Array, "B part V"]:
        size = min(hidden.shape[1], LOGITS_AT_ONCE)  # both are powers of two
        part = jax.lax.dynamic_slice_in_dim(hidden, first, size, axis=1)
        return model.logits(part, axis=TENSOR)

    def likelihood(
        model: Decoder, cache: Cache, question: Question, following: Tokens
    ) -> Float[Array, "B T"]:
        hidden, _ = _run_query(model, cache, question, runtime)

        def some(x: tuple[Hidden, Tokens]) -> Array:
            logits = model.logits(x[0], axis=TENSOR)
            logprobs = jax.nn.log_softmax(logits, axis=-1)
            chosen = jnp.take_along_axis(logprobs, x[1][..., None], axis=-1)[..., 0]
            return jnp.where(jnp.isfinite(logits).all(axis=-1), chosen, jnp.nan)

        # [B, T, ...] -> [T / size, B, size, ...]: all logits at once may be gigabytes.
        size = min(following.shape[1], LOGITS_AT_ONCE)
        parts = jax.tree.map(
            lambda x: jnp.stack(jnp.split(x, x.shape[1] // size, axis=1)), (hidden, following)
        )
        return jnp.concatenate(list(jax.lax.map(some, parts)), axis=1)

    def keep(model: Decoder, cache: Cache, question: Question) -> KV:
        return _run_query(model, cache, question, runtime)[1].own

    weights, cache = runtime.weights, _cache_layout(runtime, turns)
    rows, query = mesh_lib.ROWS, mesh_lib.QUERY
    question = Question(query, rows, rows)  # type: ignore[arg-type]
    whole = P(DATA, None, None)
    return (
        runtime.program(hidden, (weights, cache, question), whole),
        runtime.program(logits, (weights, whole, P()), whole),
        runtime.program(likelihood, (weights, cache, question, query), query),
        runtime.program(keep, (weights, cache, question), mesh_lib.TAIL),
    )


def _cache_layout(runtime: Runtime, turns: bool) -> Cache:
    later = Turns(mesh_lib.TAIL, mesh_lib.ROWS) if turns else None  # type: ignore[arg-type]
    last = None if runtime.config.window is None else mesh_lib.PLACES
    return Cache(runtime.layers, mesh_lib.BLOCKS, later, last)  # type: ignore[arg-type]


def _run_query(
    model: Decoder, cache: Cache, question: Question, runtime: Runtime
) -> tuple[Hidden, QueryState]:
    positions = question.start[:, None] + jnp.arange(question.tokens.shape[1])
    attend = QueryAttention(cache, question.start, runtime)
    none = QueryState(KV((), ()), {})
    return model.run(question.tokens, positions, attend, none, axis=TENSOR)


def _mark(seen: Array, token: PerSample) -> Array:
    """Adds each row's token to those that it has seen, if they are kept at all."""
    if not seen.shape[1]:
        return seen
    return seen.at[jnp.arange(token.shape[0]), token].set(True)


def _any_left(done: Array) -> Array:
    """Whether any row of the whole batch goes on: all devices must leave the loop together."""
    left = jnp.any(~done)
    return left if jax.lax.axis_size(DATA) == 1 else jax.lax.pmax(left.astype(jnp.int32), DATA) > 0
