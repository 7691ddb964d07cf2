"""Phase 2: a query is asked of a sharded context.

Every query token attends to all valid keys of the context, on all devices, and causally to
the tail: the query and generated tokens before it. Each device computes the partial over
its shard; partials merge over `context`; the tail, which every device holds whole, is merged
after that, so that it counts once.

Source: Acharya et al. (ICML 2025), section 2.2. Their code hides the last keys of every
shard from all but the last query token; here no context key is hidden.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from star_jax import mesh as mesh_lib
from star_jax.array_typing import Array, Hidden, Keys, Logits, PerRow, Queries, Tokens, Values
from star_jax.attention import Partial, merge, merge_over_axis, partial_attention
from star_jax.attention.partial import Method
from star_jax.cache import KV, Cache
from star_jax.mesh import CONTEXT, DATA, TENSOR
from star_jax.models.config import LlamaConfig
from star_jax.models.llama import Llama

# A decode step, and whatever needs no more than this many bytes from all devices together,
# is bound by latency: one gather is then faster than two reductions.
GATHER_BYTES = 2**20


class Tail(NamedTuple):
    """What follows the context, whole on every device of `context`."""

    query: KV  # [B, T, K, H], of which `query_length` are valid
    query_length: Array  # [B]
    start: Array  # [B], the position of the first generated token


class Decoding(NamedTuple):
    """Generation under way; donated from call to call."""

    generated: KV  # [B, S, K, H], K/V of the first `step` generated tokens
    token: Array  # [B], the last one generated, whose K/V are not there yet
    step: Array  # [], how many tokens went through the model
    done: Array  # [B], whether a row has ended


def merge_method(q: Queries, devices: int) -> Method:
    """How partials for these queries (on one device) merge over `context`."""
    batch, queries, heads, width = q.shape
    message = devices * batch * queries * heads * (width + 1) * 4
    return "gather" if queries == 1 or message <= GATHER_BYTES else "psum"


def attend_context(
    q: Queries, k: Keys, v: Values, valid: PerRow, *, implementation: str
) -> Partial:
    """All queries over all valid keys of all shards. `valid` counts this device's."""
    part = partial_attention(
        q,
        k,
        v,
        causal=False,
        kv_length=valid,
        scale=q.shape[-1] ** -0.5,
        implementation=implementation,
    )
    method = merge_method(q, jax.lax.axis_size(CONTEXT))
    return merge_over_axis(part, CONTEXT, method=method)


@dataclasses.dataclass(frozen=True)
class Asking:
    """Attention of a query. The state is the K/V of its layers so far."""

    cache: Cache
    implementation: str

    def start(self, layer: int, k: Keys, v: Values, state: KV) -> KV:
        return KV((*state.k, k), (*state.v, v))

    def __call__(self, layer: int, q: Queries, k: Keys, v: Values, state: KV) -> tuple[Queries, KV]:
        kv, valid = self.cache.kv, self.cache.valid[:, 0]
        context = attend_context(
            q, kv.k[layer], kv.v[layer], valid, implementation=self.implementation
        )
        # Padding of a short query comes after it: the causal mask hides it.
        tail = partial_attention(
            q, k, v, causal=True, scale=q.shape[-1] ** -0.5, implementation=self.implementation
        )
        return merge(context, tail).out, state


@dataclasses.dataclass(frozen=True)
class Step:
    """Attention of one generated token. The state is the generated tokens' K/V."""

    cache: Cache
    tail: Tail
    step: Array  # []
    implementation: str

    def start(self, layer: int, k: Keys, v: Values, state: KV) -> KV:
        def put(old: tuple[Array, ...], new: Array) -> tuple[Array, ...]:
            written = jax.lax.dynamic_update_slice_in_dim(old[layer], new, self.step, axis=1)
            return (*old[:layer], written, *old[layer + 1 :])

        return KV(put(state.k, k), put(state.v, v))

    def __call__(self, layer: int, q: Queries, k: Keys, v: Values, state: KV) -> tuple[Queries, KV]:
        kv, valid = self.cache.kv, self.cache.valid[:, 0]
        context = attend_context(
            q, kv.k[layer], kv.v[layer], valid, implementation=self.implementation
        )
        tail = partial_attention(
            q,
            state.k[layer],
            state.v[layer],
            causal=False,
            kv_length=jnp.broadcast_to(self.step + 1, q.shape[:1]),
            prefix_k=self.tail.query.k[layer],
            prefix_v=self.tail.query.v[layer],
            prefix_length=self.tail.query_length,
            scale=q.shape[-1] ** -0.5,
            implementation=self.implementation,
        )
        return merge(context, tail).out, state


# Of the loop over tokens: how many so far, they [B, stride], the state, whether any row goes on.
Loop = tuple[Array, Array, Decoding, Array]


class Programs(NamedTuple):
    """The programs of phase 2, compiled per (capacity, query bucket, generation bucket).

    score(model, cache, tokens [B, T], start [B]) -> logits [B, T, V]
    ask(model, cache, tokens, length [B], start [B]) -> (Tail, first token [B])
    decode(model, cache, tail, Decoding, eos [E], count []) -> (tokens [B, stride], Decoding)
    """

    score: Wrapped
    ask: Wrapped
    decode: Wrapped


@functools.cache
def programs(config: LlamaConfig, mesh: Mesh, implementation: str, stride: int) -> Programs:
    """See `Programs`. `decode` generates at most `stride` tokens a call."""

    def run_query(model: Llama, cache: Cache, tokens: Tokens, start: PerRow) -> tuple[Hidden, KV]:
        positions = start[:, None] + jnp.arange(tokens.shape[1])
        attend = Asking(cache, implementation)
        return model.run(tokens, positions, attend, KV((), ()), axis=TENSOR)

    def score(model: Llama, cache: Cache, tokens: Tokens, start: PerRow) -> Logits:
        hidden, _ = run_query(model, cache, tokens, start)
        return model.logits(hidden, axis=TENSOR)

    def ask(
        model: Llama, cache: Cache, tokens: Tokens, length: PerRow, start: PerRow
    ) -> tuple[Tail, PerRow]:
        hidden, kv = run_query(model, cache, tokens, start)
        last = jnp.maximum(length - 1, 0)[:, None, None]
        hidden = jnp.take_along_axis(hidden, last, axis=1)  # [B, T, D] -> [B, 1, D]
        return Tail(kv, length, start + length), greedy(model.logits(hidden, axis=TENSOR))

    def decode(
        model: Llama, cache: Cache, tail: Tail, state: Decoding, eos: Array, count: Array
    ) -> tuple[Tokens, Decoding]:
        def body(carry: Loop) -> Loop:
            i, tokens, state, _ = carry
            attend = Step(cache, tail, state.step, implementation)
            positions = (tail.start + state.step)[:, None]
            token, generated = state.token[:, None], state.generated
            hidden, kv = model.run(token, positions, attend, generated, axis=TENSOR)
            token = greedy(model.logits(hidden, axis=TENSOR))
            tokens = tokens.at[:, i].set(jnp.where(state.done, -1, token))
            done = state.done | jnp.isin(token, eos)
            state = Decoding(kv, token, state.step + 1, done)
            return i + 1, tokens, state, _any_left(done)

        def cond(carry: Loop) -> Array:
            i, _, _, left = carry
            return left & (i < count)

        tokens = jnp.full((state.token.shape[0], stride), -1, jnp.int32)
        carry = (jnp.int32(0), tokens, state, _any_left(state.done))
        _, tokens, state, _ = jax.lax.while_loop(cond, body, carry)
        return tokens, state

    weights = mesh_lib.weight_specs(config, mesh)
    cache = Cache(mesh_lib.CACHE, mesh_lib.BLOCKS)  # type: ignore[arg-type]
    rows, query, tail = mesh_lib.ROWS, mesh_lib.QUERY, mesh_lib.TAIL
    tails = Tail(tail, rows, rows)  # type: ignore[arg-type]
    state = Decoding(tail, rows, P(), rows)  # type: ignore[arg-type]

    def jit(f: Callable[..., Any], in_specs: Any, out_specs: Any, **options: Any) -> Wrapped:
        local = jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(local, compiler_options=mesh_lib.compiler_options(mesh), **options)

    return Programs(
        score=jit(score, (weights, cache, query, rows), P(DATA, None, None)),
        ask=jit(ask, (weights, cache, query, rows, rows), (tails, rows)),
        decode=jit(
            decode, (weights, cache, tails, state, P(), P()), (query, state), donate_argnums=3
        ),
    )


def greedy(logits: Array) -> Array:
    """The likeliest next token of each row. logits: [B, 1, V]."""
    return jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)


def _any_left(done: Array) -> Array:
    """Whether any row of the whole batch goes on: all devices must leave the loop together."""
    left = jnp.any(~done)
    return left if jax.lax.axis_size(DATA) == 1 else jax.lax.pmax(left.astype(jnp.int32), DATA) > 0
