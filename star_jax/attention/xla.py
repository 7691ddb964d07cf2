"""Attention in plain XLA operations, for any device: online softmax over a static list of tiles.

Memory is O(T * tile). Keys and values are read where they lie: never repeated per query
head, never concatenated, never transposed as a whole. Tiles that a causal mask hides
altogether are not in the list; tiles that it hides for these particular offsets and
lengths are skipped when they come up.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import (
    Array,
    Bool,
    Keys,
    PerRow,
    PrefixKeys,
    PrefixValues,
    Queries,
    Values,
)
from star_jax.attention.partial import Partial, merge

# Up to this many queries (a decode step) or bytes of scores, one tile holds everything:
# a loop would only add a copy of each tile of keys.
FEW_QUERIES = 8
SMALL_SCORES = 4 * 2**20
READ = 512  # keys that few queries read at a time, on a CPU
MIN_TILE, MAX_TILE = 64, 512  # of 1024, the scores leave a CPU's cache: a quarter slower
STRIPS = 2  # of a tile on the diagonal, each without the keys that none of its queries sees


Kind = Literal["whole", "diagonal", "masked"]
KINDS: tuple[Kind, ...] = ("whole", "diagonal", "masked")


class Segment(NamedTuple):
    """Some of the keys, and who sees them."""

    k: Array  # [B, S, K, H]
    v: Array  # [B, S, K, H]
    causal: bool
    offset: Array | None  # [B], see dispatch.partial_attention's q_offset
    length: Array | None  # [B]


class Softmax(NamedTuple):
    """Online softmax under way. A query that has seen no key has top = -inf, total = 0."""

    acc: Array  # [..., T, H], sum of exp(scale * (score - top)) * v
    top: Array  # [..., T], highest score, not yet scaled: that would be one more pass over them
    total: Array  # [..., T], sum of exp(scale * (score - top))


def refuses_device(device: jax.Device) -> str:
    """It runs everywhere."""
    return ""


def refuses(dtype: str, head_dim: int, device: jax.Device) -> str:
    """It serves every dtype and head dim."""
    return ""


def partial_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool,
    q_offset: PerRow | None = None,
    kv_length: PerRow | None = None,
    prefix_k: PrefixKeys | None = None,
    prefix_v: PrefixValues | None = None,
    prefix_length: PerRow | None = None,
    scale: float,
) -> Partial:
    """See `dispatch.partial_attention`."""
    if scale <= 0:
        raise NotImplementedError(f"{scale=} must be positive")
    segments = [Segment(k, v, causal, q_offset, kv_length)]
    if prefix_k is not None and prefix_v is not None:
        segments.insert(0, Segment(prefix_k, prefix_v, False, None, prefix_length))
    batch, queries, heads, _ = q.shape
    keys = sum(s.k.shape[1] for s in segments)
    if queries <= FEW_QUERIES or batch * heads * queries * keys * 4 <= SMALL_SCORES:
        return merge(*(_few(q, s, scale=scale) for s in segments))
    return _tiled(q, segments, scale=scale)


def _few(q: Queries, s: Segment, *, scale: float) -> Partial:
    """One segment for few queries."""
    batch, queries, heads, width = q.shape
    kv_heads = s.k.shape[2]
    q = q.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    q = q.transpose(0, 2, 3, 1, 4)  # [B, T, K, G, H] -> [B, K, G, T, H]
    whole = functools.partial(_whole, s=s, scale=scale)
    if s.length is None or s.causal or s.k.shape[1] <= READ:
        found = whole(q)
    else:
        # On a GPU the loop would copy every tile, and launch several kernels for it.
        valid = functools.partial(_valid, s=s, scale=scale)
        found = jax.lax.platform_dependent(q, cpu=valid, default=whole)
    out, lse = _finish(found, scale=scale)
    return Partial(
        out.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, width),
        lse.transpose(0, 3, 1, 2).reshape(batch, queries, heads),
    )


def _whole(q: Array, s: Segment, *, scale: float) -> Softmax:
    """All scores at once. q: [B, K, G, T, H]."""
    mask = _visible(s, np.arange(q.shape[3]), np.arange(s.k.shape[1]))
    return _update(None, q, s.k, s.v, mask, scale=scale)


def _valid(q: Array, s: Segment, *, scale: float) -> Softmax:
    """As `_whole`, but reads only tiles that hold a valid key of some row. q: [B, K, G, T, H]."""
    if s.length is None:
        raise ValueError("a segment without lengths is valid as a whole")
    keys = s.k.shape[1]

    def add(j: Array, old: Softmax) -> Softmax:
        start = jnp.minimum(j * READ, keys - READ)  # the last tile may overlap its neighbour
        k = jax.lax.dynamic_slice_in_dim(s.k, start, READ, axis=1)
        v = jax.lax.dynamic_slice_in_dim(s.v, start, READ, axis=1)
        rows, columns = np.arange(q.shape[3]), start + jnp.arange(READ)
        seen = _visible(s, rows, columns, first=j * READ)
        return _update(old, q, k, v, seen, scale=scale)

    none = Softmax(jnp.zeros(q.shape), jnp.full(q.shape[:-1], -jnp.inf), jnp.zeros(q.shape[:-1]))
    tiles = (jnp.max(s.length) + READ - 1) // READ
    return jax.lax.fori_loop(0, jnp.minimum(tiles, -(-keys // READ)), add, none)


def _tiled(q: Queries, segments: list[Segment], *, scale: float) -> Partial:
    batch, queries, heads, width = q.shape
    kv_heads = segments[0].k.shape[2]
    # Only a causal mask makes small query tiles worth while: they waste less on its diagonal.
    tile = _tile(queries) if any(s.causal for s in segments) else min(queries, MAX_TILE)
    count = -(-queries // tile)
    q = jnp.pad(q, ((0, 0), (0, count * tile - queries), (0, 0), (0, 0)))
    q = q.reshape(batch, count, tile, kv_heads, heads // kv_heads, width)
    q = q.transpose(1, 0, 3, 4, 2, 5)  # [tiles, B, K, G, tile, H]

    # A plain constant would let the scheduler allocate the zeros of all layers ahead of time.
    zero = jnp.where(q[0, 0, 0, 0, 0, 0] > 0, 0.0, -0.0)
    carry = Softmax(
        acc=jnp.broadcast_to(zero, q.shape),
        top=jnp.full(q.shape[:-1], -jnp.inf),
        total=jnp.zeros(q.shape[:-1]),
    )
    for s in segments:
        carry = _scan_segment(carry, q, s, scale=scale)

    out, lse = _finish(carry, scale=scale)  # [tiles, B, K, G, tile, H], [tiles, B, K, G, tile]
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * tile, heads, width)
    lse = lse.transpose(1, 0, 4, 2, 3).reshape(batch, count * tile, heads)
    return Partial(out[:, :queries], lse[:, :queries])


def _scan_segment(carry: Softmax, q: Array, s: Segment, *, scale: float) -> Softmax:
    """Adds one segment to the softmax of every query tile."""
    count, q_tile = q.shape[0], q.shape[-2]
    keys = s.k.shape[1]
    k_tile = min(_tile(keys) if s.causal else MAX_TILE, keys)
    pairs = _pairs(s, count, q_tile, k_tile)
    depends_on_data = s.length is not None or s.offset is not None

    def step(carry: Softmax, pair: Array, *, kind: Kind) -> tuple[Softmax, None]:
        i, j = pair[0], pair[1]
        start = jnp.minimum(j * k_tile, keys - k_tile)  # the last tile may overlap its neighbour
        take = functools.partial(jax.lax.dynamic_index_in_dim, index=i, axis=0, keepdims=False)
        old, query = jax.tree.map(take, carry), take(q)
        # Before they are written, or XLA would copy those of all tiles.
        top, total = jax.lax.optimization_barrier((old.top, old.total))
        old = old._replace(top=top, total=total)
        rows = i * q_tile + jnp.arange(q_tile)
        columns = start + jnp.arange(k_tile)

        def update(old: Softmax) -> Softmax:
            k = jax.lax.dynamic_slice_in_dim(s.k, start, k_tile, axis=1)
            v = jax.lax.dynamic_slice_in_dim(s.v, start, k_tile, axis=1)
            if kind == "diagonal":
                return _diagonal(old, query, k, v, scale=scale)
            seen = _visible(s, rows, columns, first=j * k_tile) if kind == "masked" else None
            return _update(old, query, k, v, seen, scale=scale)

        if kind == "masked" and depends_on_data:
            new = jax.lax.cond(_any_visible(s, rows[-1], j * k_tile), update, lambda x: x, old)
        else:
            new = update(old)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=i, axis=0)
        return jax.tree.map(put, carry, new), None

    for kind in KINDS:
        if pairs[kind]:
            body = functools.partial(step, kind=kind)
            carry, _ = jax.lax.scan(body, carry, np.asarray(pairs[kind], np.int32))
    return carry


def _pairs(s: Segment, count: int, q_tile: int, k_tile: int) -> dict[Kind, list[tuple[int, int]]]:
    """Pairs (query tile, key tile): what needs no mask, squares on the diagonal, all others."""
    pairs: dict[Kind, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    keys = s.k.shape[1]
    depends_on_data = s.length is not None or s.offset is not None
    for i in range(count):
        for j in range(-(-keys // k_tile)):
            first_key, last_key = j * k_tile, (j + 1) * k_tile - 1
            first_query, last_query = i * q_tile, (i + 1) * q_tile - 1
            kind: Kind = "masked"
            if s.causal and s.offset is None and first_key > last_query:
                continue
            if last_key < keys and not depends_on_data:
                if not s.causal or last_key <= first_query:
                    kind = "whole"
                elif i == j and q_tile == k_tile and q_tile % STRIPS == 0:
                    kind = "diagonal"
            pairs[kind].append((i, j))
    return pairs


def _visible(
    s: Segment, rows: Array | np.ndarray, columns: Array | np.ndarray, first: Array | None = None
) -> Bool[Array, "B 1 1 T S"] | None:
    """Which of the keys `columns`, from `first` on, each of the queries `rows` sees; None: all."""
    if not s.causal and s.length is None and first is None:
        return None
    mask = jnp.full((1, 1, 1, len(rows), len(columns)), True)
    if first is not None:
        mask = mask & (columns >= first)
    if s.causal:
        limit = jnp.asarray(rows) if s.offset is None else rows + s.offset[:, None]
        limit = jnp.reshape(limit, (-1, 1, 1, len(rows), 1))
        mask = mask & (columns <= limit)
    if s.length is not None:
        mask = mask & (columns < s.length[:, None, None, None, None])
    return mask


def _any_visible(s: Segment, last_row: Array, first_column: Array) -> Array:
    """Whether any query of a tile sees any of its keys, in any row of the batch."""
    seen = jnp.full((1,), True)
    if s.length is not None:
        seen = seen & (first_column < s.length)
    if s.causal and s.offset is not None:
        seen = seen & (first_column <= last_row + s.offset)
    return seen.any()


def _diagonal(old: Softmax, q: Array, k: Array, v: Array, *, scale: float) -> Softmax:
    """Adds a tile of as many keys as queries, each of which sees those up to its own."""
    size = q.shape[-2] // STRIPS
    strips = []
    for first in range(0, q.shape[-2], size):
        end = first + size
        part = Softmax(
            old.acc[..., first:end, :], old.top[..., first:end], old.total[..., first:end]
        )
        mask = jnp.arange(end) <= jnp.arange(first, end)[:, None]
        strips.append(
            _update(part, q[..., first:end, :], k[:, :end], v[:, :end], mask, scale=scale)
        )
    acc, top, total = zip(*strips, strict=True)
    return Softmax(*(jnp.concatenate(x, axis=q.ndim - 2) for x in (acc, top, total)))


def _update(
    old: Softmax | None, q: Array, k: Array, v: Array, mask: Array | None, *, scale: float
) -> Softmax:
    """Adds one tile. q: [B, K, G, T, H]; k, v: [B, S, K, H]; mask broadcasts to [B, K, G, T, S]."""
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    scores = jnp.einsum(
        "bkgth,bskh->bkgts", q, k, precision=precision, preferred_element_type=jnp.float32
    )
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    top = scores.max(axis=-1)
    if old is not None:
        top = jnp.maximum(top, old.top)
    finite = jnp.where(top == -jnp.inf, 0.0, top)  # no key yet: exp(-inf - 0) = 0, not NaN
    weights = jnp.exp(scale * (scores - finite[..., None]))
    total = weights.sum(axis=-1)
    acc = jnp.einsum(
        "bkgts,bskh->bkgth",
        weights.astype(v.dtype),
        v,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    if old is not None:
        decay = jnp.exp(scale * (old.top - finite))
        total = total + decay * old.total
        acc = acc + decay[..., None] * old.acc
    return Softmax(acc, top, total)


def _finish(s: Softmax, *, scale: float) -> Partial:
    none = s.total == 0
    total = jnp.where(none, 1.0, s.total)
    lse = jnp.where(none, -jnp.inf, scale * s.top + jnp.log(total))
    return Partial(s.acc / total[..., None], lse)


def _tile(length: int) -> int:
    """A power of two near length / 4: the strips on the diagonal waste an eighth at most."""
    return min(max(1 << max(length // 4, 1).bit_length() - 1, MIN_TILE), MAX_TILE, length)
