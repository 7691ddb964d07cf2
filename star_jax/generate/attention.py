"""Phase 2's attention: queries, and generated tokens, over a sharded context and its tail.

Every query token attends to all valid keys of the context, on all devices, and causally to
the tail: the query and generated tokens before it. Each device computes the partial over
its shard; partials merge over `context`; the tail, which every device holds whole, is merged
after that, so that it counts once.

In a layer with a window it attends to what the window reaches. The last keys of the context are
brought together for that, once for a query, and every device holds them whole.

Source: Acharya et al. (ICML 2025), section 2.2. Their code hides the last keys of every
shard from all but the last query token; here no context key is hidden.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Float, Keys, PerRow, Queries, Values
from star_jax.attention import Partial, Segment, merge, merge_over_axis
from star_jax.attention.partial import Method
from star_jax.attention.windowed import attend_windowed
from star_jax.cache.recent import recent
from star_jax.cache.sharded import KV, Cache, Pair, Pairs
from star_jax.models import LayerSpec
from star_jax.runtime.mesh import CONTEXT
from star_jax.runtime.runtime import Attention, Runtime

# A decode step, and whatever needs no more than this many bytes from all devices together,
# is bound by latency: one gather is then faster than two reductions.
GATHER_BYTES = 2**20


class Tail(NamedTuple):
    """What follows the context, whole on every device of `context`."""

    query: KV  # [Q, T, K, H], of which `query_length` are valid
    query_length: Array  # [Q]
    start: Array  # [Q], the position of the first generated token
    recent: Pairs  # as in `QueryState`


class QueryState(NamedTuple):
    """What the layers of a query so far keep.

    recent: of layers with windows, the keys before the query that its window may reach, whole on
      every device of `context`: [Q, reach, K, H].
    """

    own: KV  # [Q, T, K, H]
    recent: Pairs


def merge_method(q: Queries, devices: int) -> Method:
    """How partials for these queries (on one device) merge over `context`."""
    batch, queries, heads, width = q.shape
    message = devices * batch * queries * heads * (width + 1) * 4
    return "gather" if queries == 1 or message <= GATHER_BYTES else "psum"


def _attend_context(q: Queries, cache: Cache, spec: LayerSpec, attend: Attention) -> Partial:
    """Queries over all of their contexts: the valid keys of all shards, and earlier turns.

    q: [Q, T, N, H]. The Q / B rows of a context are asked together, like tokens of one query:
    its keys are read once for all of them.
    """
    rows = _together(q, cache.valid.shape[0])
    part = cache.layers[spec.index].attend(rows, cache.valid[:, 0], attend)
    method = merge_method(rows, jax.lax.axis_size(CONTEXT))
    part = merge_over_axis(part, CONTEXT, method=method)
    if cache.turns is not None:
        kv, valid = cache.turns
        turns = attend(rows, [Segment(kv.k[spec.index], kv.v[spec.index], length=valid)])
        part = merge(part, turns)
    return _apart(part, q)


def _together(q: Queries, rows: int) -> Float[Array, "fewer more N H"]:
    """[Q, T, N, H] -> [B, Q / B * T, N, H]"""
    return q.reshape(rows, -1, *q.shape[2:])


def _apart(part: Partial, q: Queries) -> Partial:
    """The partial in the shape of the queries that were put together."""
    return Partial(part.out.reshape(q.shape), part.lse.reshape(q.shape[:-1]))


@dataclasses.dataclass(frozen=True)
class QueryAttention:
    """Attention of a query that starts at these positions."""

    cache: Cache
    starts: PerRow  # [Q]
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: QueryState) -> QueryState:
        own = KV((*state.own.k, k), (*state.own.v, v))
        if spec.window is None:
            return QueryState(own, state.recent)
        queries = k.shape[0] // self.cache.valid.shape[0]  # of each context
        before = jax.tree.map(
            lambda x: jnp.repeat(x, queries, axis=0), recent(self.cache, spec.index)
        )
        return QueryState(own, state.recent | {spec.index: before})

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: QueryState
    ) -> tuple[Queries, QueryState]:
        attend = self.runtime.attention(spec)
        if spec.window is not None:
            before, starts = state.recent[spec.index], self.starts
            part = attend_windowed(
                q, k, v, before, starts=starts, window=spec.window, attend=attend
            )
            return part.out, state
        context = _attend_context(q, self.cache, spec, attend)
        # Padding of a short query comes after it: the causal mask hides it.
        tail = attend(q, [Segment(k, v, causal=True)])
        return merge(context, tail).out, state


@dataclasses.dataclass(frozen=True)
class TokenAttention:
    """Attention of one generated token a row. The state is the generated tokens' K/V.

    The samples of a query read its keys once, as the queries of a context do.
    """

    cache: Cache
    tail: Tail
    step: Array  # []
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: KV) -> KV:
        def put(old: tuple[Array, ...], new: Array) -> tuple[Array, ...]:
            written = jax.lax.dynamic_update_slice_in_dim(old[spec.index], new, self.step, axis=1)
            return (*old[: spec.index], written, *old[spec.index + 1 :])

        return KV(put(state.k, k), put(state.v, v))

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: KV
    ) -> tuple[Queries, KV]:
        attend, i = self.runtime.attention(spec), spec.index
        asked, valid = self.tail.query, self.tail.query_length
        made = jnp.broadcast_to(self.step + 1, q.shape[:1])
        query, own = Segment(asked.k[i], asked.v[i], valid), Segment(state.k[i], state.v[i], made)
        samples = _together(q, valid.shape[0])  # [R, 1, N, H] -> [Q, R / Q, N, H]
        if spec.window is None:
            context = _attend_context(q, self.cache, spec, attend)
        else:
            seen, query, own = self._within(spec.window - 1, self.tail.recent[i], query, own)
            context = _apart(attend(samples, [seen]), q)
        return merge(context, _apart(attend(samples, [query]), q), attend(q, [own])).out, state

    def _within(
        self, reach: int, before: Pair, query: Segment, own: Segment
    ) -> tuple[Segment, Segment, Segment]:
        """What a window reaches before the query, in it, and after it: `reach` keys, and its own.

        One token sees the last keys of each part, so that its window is where it begins to see.
        """
        length, start, room = self.tail.query_length, self.tail.start, before[0].shape[1]
        passed = length + self.step  # tokens since what is before the query
        # Before the first token of all there is nothing.
        of_context = jnp.maximum(room - reach + passed, room - (start - length))
        of_query = jnp.clip(passed - reach, 0, length)
        of_own = jnp.broadcast_to(jnp.maximum(self.step - reach, 0), own.k.shape[:1])
        return (
            Segment(*before, begin=jnp.minimum(of_context, room)),
            dataclasses.replace(query, begin=of_query),
            dataclasses.replace(own, begin=of_own),
        )
