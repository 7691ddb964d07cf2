"""Attention in plain XLA operations, for any device: online softmax over a static list of tiles.

Memory is O(T * tile). Keys and values are read where they lie: never repeated per query
head, never concatenated, never transposed as a whole. Tiles that a causal mask or a window
hides altogether are not in the list; tiles that they hide for these particular offsets and
lengths are skipped when they come up; those of which every key is seen need no mask.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, Bool, Queries
from star_jax.attention.online_softmax import (
    STRIPS,
    Score,
    Softmax,
    finish,
    update,
    update_diagonal,
)
from star_jax.attention.partial import Partial, merge
from star_jax.attention.segment import Segment

# Up to this many queries (a decode step) or bytes of scores, one tile holds everything:
# a loop would only add a copy of each tile of keys.
FEW_QUERIES = 8
SMALL_SCORES = 4 * 2**20
READ = 512  # keys that few queries read at a time, on a CPU
MIN_TILE, MAX_TILE = 64, 512  # of 1024, the scores leave a CPU's cache: a quarter slower

Kind = Literal["whole", "diagonal", "masked"]
KINDS: tuple[Kind, ...] = ("whole", "diagonal", "masked")


def refuses_device(device: jax.Device) -> str:
    """It runs everywhere."""
    return ""


def refuses(dtype: str, head_dim: int, device: jax.Device) -> str:
    """It serves every dtype and head dim."""
    return ""


def refuses_layer(window: int | None, soft_cap: float | None) -> str:
    """It serves every layer."""
    return ""


def attend(
    q: Queries,
    segments: Sequence[Segment],
    *,
    scale: float,
    soft_cap: float | None,
    with_keys: bool = False,
) -> Partial:
    """See `dispatch.partial_attention`."""
    if scale <= 0:
        raise NotImplementedError(f"{scale=} must be positive")
    score = Score(scale, soft_cap, with_keys)
    batch, queries, heads, _ = q.shape
    keys = sum(s.keys for s in segments)
    if queries <= FEW_QUERIES or batch * heads * queries * keys * 4 <= SMALL_SCORES:
        return merge(*(_few(q, s, score) for s in segments))
    return _tiled(q, segments, score)


def _few(q: Queries, s: Segment, score: Score) -> Partial:
    """One segment for few queries."""
    batch, queries, heads, width = q.shape
    kv_heads = s.k.shape[2]
    q = q.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    q = q.transpose(0, 2, 3, 1, 4)  # [B, T, K, G, H] -> [B, K, G, T, H]
    whole = functools.partial(_whole, s=s, score=score)
    windowed = s.window is not None and s.offset is not None
    bounded = s.length is not None or s.begin is not None
    seen = functools.partial(_seen, s=s, score=score)
    if s.keys <= READ:
        found = whole(q)
    elif not s.is_plain:
        found = seen(q)  # what is in 8 bits is never made whole
    elif not (windowed or (bounded and not s.causal)):
        found = whole(q)
    else:
        # On a GPU the loop would copy every tile, and launch several kernels for it.
        found = jax.lax.platform_dependent(q, cpu=seen, default=whole)
    out, lse = finish(found, score)
    return Partial(
        out.transpose(0, 3, 1, 2, 4).reshape(batch, queries, heads, -1),
        lse.transpose(0, 3, 1, 2).reshape(batch, queries, heads),
    )


def _whole(q: Array, s: Segment, score: Score) -> Softmax:
    """All scores at once. q: [B, K, G, T, H]."""
    mask = _visible(s, np.arange(q.shape[3]), np.arange(s.keys))
    return update(None, q, *s.whole(), mask, score)


def _seen(q: Array, s: Segment, score: Score) -> Softmax:
    """Does as `_whole`, and reads only tiles with a key that some row sees. q: [B, K, G, T, H]."""
    few = q.shape[3] <= FEW_QUERIES
    tile = READ if few else _most(s.keys, q.shape[3])
    spread = _spread(q) if few else q

    def add(j: Array, old: Softmax) -> Softmax:
        start = jnp.minimum(j * tile, s.keys - tile)  # the last tile may overlap its neighbour
        k, v = s.tile(start, tile)
        if few:
            k, v = (x.reshape(*x.shape[:2], 1, -1) for x in (k, v))
        rows, columns = np.arange(q.shape[3]), start + jnp.arange(tile)
        seen = _visible(s, rows, columns, first=j * tile)
        return update(old, spread, k, v, seen, score)

    empty = spread.shape[:-1]
    none = Softmax(score.zeros(spread), jnp.full(empty, -jnp.inf), jnp.zeros(empty))
    first, end = _range_seen(s, 0, q.shape[3] - 1)
    from_first = s.window is None and s.begin is None
    begin = 0 if from_first else jnp.maximum(jnp.min(first), 0) // tile
    tiles = (jnp.max(end) + tile - 1) // tile
    found = jax.lax.fori_loop(begin, jnp.minimum(tiles, -(-s.keys // tile)), add, none)
    return _gather(found, q) if few else found


def _spread(q: Array) -> Array:
    """Few queries, each as wide as all heads of a key, with zeros for the other heads.

    [B, K, G, T, H] -> [B, 1, K * G, T, K * H]. One product then reads the keys as they lie. It has
    K times the work, and takes a CPU half to a third of the time: a head has too few queries to
    fill a product of its own.
    """
    batch, kv_heads, group, queries, width = q.shape
    own = jnp.eye(kv_heads, dtype=q.dtype)[:, None, None, :, None]
    return (q[..., None, :] * own).reshape(batch, 1, kv_heads * group, queries, kv_heads * width)


def _gather(s: Softmax, q: Array) -> Softmax:
    """What queries that were spread have found, each of its own head. q: [B, K, G, T, H]."""
    acc = s.acc.reshape(*q.shape[:-1], -1, q.shape[1], q.shape[-1])  # values, and keys if averaged
    acc = jnp.einsum("bkgtpkh->bkgtph", acc).reshape(*q.shape[:-1], -1)
    return Softmax(acc, s.top.reshape(q.shape[:-1]), s.total.reshape(q.shape[:-1]))


def _tiled(q: Queries, segments: Sequence[Segment], score: Score) -> Partial:
    batch, queries, heads, width = q.shape
    kv_heads = segments[0].k.shape[2]
    tile = min(_tile(queries, s) for s in segments)
    count = -(-queries // tile)
    q = jnp.pad(q, ((0, 0), (0, count * tile - queries), (0, 0), (0, 0)))
    q = q.reshape(batch, count, tile, kv_heads, heads // kv_heads, width)
    q = q.transpose(1, 0, 3, 4, 2, 5)  # [tiles, B, K, G, tile, H]

    # A plain constant would let the scheduler allocate the zeros of all layers ahead of time.
    zero = jnp.where(q[0, 0, 0, 0, 0, 0] > 0, 0.0, -0.0)
    carry = Softmax(
        acc=jnp.broadcast_to(zero, score.zeros(q).shape),
        top=jnp.full(q.shape[:-1], -jnp.inf),
        total=jnp.zeros(q.shape[:-1]),
    )
    for s in segments:
        carry = _scan_segment(carry, q, s, score)

    out, lse = finish(carry, score)  # [tiles, B, K, G, tile, H], [tiles, B, K, G, tile]
    out = out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * tile, heads, -1)
    lse = lse.transpose(1, 0, 4, 2, 3).reshape(batch, count * tile, heads)
    return Partial(out[:, :queries], lse[:, :queries])


def _scan_segment(carry: Softmax, q: Array, s: Segment, score: Score) -> Softmax:
    """Adds one segment to the softmax of every query tile."""
    count, q_tile = q.shape[0], q.shape[-2]
    keys, k_tile = s.keys, _tile(s.keys, s, most=_most(s.keys, q_tile))
    pairs = _pairs(s, count, q_tile, k_tile)
    depends_on_data = _depends_on_data(s)

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

        def add(old: Softmax, kind: Kind = kind) -> Softmax:
            k, v = s.tile(start, k_tile)
            if kind == "diagonal":
                return update_diagonal(old, query, k, v, score)
            seen = _visible(s, rows, columns, first=j * k_tile) if kind == "masked" else None
            return update(old, query, k, v, seen, score)

        if kind == "masked" and depends_on_data:
            some = (lambda old: old, functools.partial(add, kind="whole"), add)
            new = jax.lax.switch(_how_much(s, rows, j, k_tile), some, old)
        else:
            new = add(old)
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
    depends_on_data = _depends_on_data(s)
    window = math.inf if s.window is None else s.window
    for i in range(count):
        for j in range(-(-s.keys // k_tile)):
            first_key, last_key = j * k_tile, (j + 1) * k_tile - 1
            first_query, last_query = i * q_tile, (i + 1) * q_tile - 1
            kind: Kind = "masked"
            hidden = first_query - last_key >= window or (s.causal and first_key > last_query)
            if hidden and s.offset is None:
                continue
            if last_key < s.keys and not depends_on_data and last_query - first_key < window:
                if not s.causal or last_key <= first_query:
                    kind = "whole"
                elif i == j and q_tile == k_tile and q_tile % STRIPS == 0:
                    kind = "diagonal"
            pairs[kind].append((i, j))
    return pairs


def _depends_on_data(s: Segment) -> bool:
    return any(x is not None for x in (s.length, s.offset, s.begin))


def _visible(
    s: Segment, rows: Array | np.ndarray, columns: Array | np.ndarray, first: Array | None = None
) -> Bool[Array, "B 1 1 T S"] | None:
    """Which of the keys `columns`, from `first` on, each of the queries `rows` sees; None: all."""
    if not (s.is_ordered or _depends_on_data(s)) and first is None:
        return None
    mask = jnp.full((1, 1, 1, len(rows), len(columns)), True)
    if first is not None:
        mask = mask & (columns >= first)
    if s.is_ordered:
        at = jnp.asarray(rows) if s.offset is None else rows + s.offset[:, None]
        at = jnp.reshape(at, (-1, 1, 1, len(rows), 1))
        if s.causal:
            mask = mask & (columns <= at)
        if s.window is not None:
            mask = mask & (columns > at - s.window)
    if s.length is not None:
        mask = mask & (columns < s.length[:, None, None, None, None])
    if s.begin is not None:
        mask = mask & (columns >= s.begin[:, None, None, None, None])
    return mask


def _how_much(s: Segment, rows: Array, j: Array, tile: int) -> Array:
    """How much of key tile j these queries see: 0 nothing, 1 all of it, 2 some of it."""
    first, end = _range_seen(s, rows[0], rows[-1])
    some = jnp.any((j * tile < end) & ((j + 1) * tile > first))
    # What every query sees: each edge is the narrowest one.
    first, end = _range_seen(s, rows[-1], rows[0])
    whole = jnp.all((j * tile >= first) & ((j + 1) * tile <= end))
    return jnp.where(some, jnp.where(whole, 1, 2), 0)


def _range_seen(s: Segment, first_row: Array | int, last_row: Array | int) -> tuple[Array, Array]:
    """Keys [first, end) that these queries see between them, [B] or [1]; first may be negative."""
    offset = jnp.zeros(1, jnp.int32) if s.offset is None else s.offset
    first, end = jnp.zeros_like(offset), jnp.full_like(offset, s.keys)
    if s.length is not None:
        end = jnp.minimum(s.length, s.keys)
    if s.causal:
        end = jnp.minimum(end, last_row + offset + 1)
    if s.window is not None:
        first = first_row + offset - s.window + 1
    if s.begin is not None:
        first = jnp.maximum(first, s.begin)
    return first, end


def _tile(length: int, s: Segment, *, most: int = MAX_TILE) -> int:
    """How many of `length` queries, or keys of the segment, make a tile.

    Only masks make small tiles worth while: they waste less at their edges. A power of two near a
    quarter of what is seen: the strips on the diagonal waste an eighth at most.
    """
    if not s.is_ordered:
        # The largest that wastes least: 1280 keys are four tiles of 320, and not three of 448.
        if length > most:
            return min(range(most, most // 2, -MIN_TILE), key=lambda tile: -length % tile)
        return length
    seen = length if s.window is None else min(length, s.window)
    return min(max(1 << max(seen // 4, 1).bit_length() - 1, MIN_TILE), MAX_TILE, length)


def _most(keys: int, queries: int) -> int:
    """How many keys make a tile at most. Few queries take more: going through tiles costs, too."""
    more = min(MAX_TILE**2 // queries, 4 * MAX_TILE, keys // 4)
    return max(MAX_TILE, more // MIN_TILE * MIN_TILE)
