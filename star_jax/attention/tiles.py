"""Which keys a query sees, and which tiles of keys: the arithmetic that the GPU kernels share.

Keys lie in two segments: a prefix, all of whose valid keys every query sees, and `k`, of which
a query sees the valid ones up to its own. Either way a query sees the first so many of a
segment, so that one number per query says it all; with a window, or where `k` begins later, a
second number says from which key of `k` on. A tile of keys is *whole* for a tile of queries if
every query sees all of its keys; it needs no mask then.

Everything here is scalar or elementwise int32, and runs inside kernels and outside alike.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from star_jax.array_typing import Array


class Bounds(NamedTuple):
    """What one row of the batch may see."""

    offset: Array | int  # query i sees keys up to i + offset of `k`, if causal
    length: Array | int  # valid keys of `k`
    prefix: Array | int  # valid keys of the prefix
    begin: Array | int = 0  # the first key of `k` that is seen


class Tiles(NamedTuple):
    """The tiles of keys that a tile of queries visits.

    Of the prefix [0, prefix_whole) without a mask, then to prefix_end with one. Of `k` [first,
    clear) with a mask, [clear, whole) without one, then to end with one again.
    """

    prefix_whole: Array
    prefix_end: Array
    first: Array | int
    clear: Array | int  # the first tile that all see from its first key on
    whole: Array
    end: Array


def keys_seen(query: Array, bounds: Bounds, *, causal: bool) -> Array:
    """How many keys of `k`, from the first on, the query with this index sees."""
    if not causal:
        return jnp.full_like(query, 0) + bounds.length
    return jnp.maximum(jnp.minimum(query + bounds.offset + 1, bounds.length), 0)


def first_seen(query: Array, bounds: Bounds, *, window: int | None) -> Array:
    """The first key of `k` that the query with this index sees, if it sees any."""
    begin = jnp.maximum(jnp.full_like(query, 0) + bounds.begin, 0)
    if window is None:
        return begin
    return jnp.maximum(query + bounds.offset - (window - 1), begin)


def visited(
    first: Array, last: Array, bounds: Bounds, *, tile: int, causal: bool, window: int | None = None
) -> Tiles:
    """The tiles of `tile` keys that the queries first, ..., last visit between them."""
    tiles = Tiles(
        prefix_whole=_floor(bounds.prefix, tile),
        prefix_end=_ceil(bounds.prefix, tile),
        first=0,
        clear=0,
        whole=_floor(keys_seen(first, bounds, causal=causal), tile),
        end=_ceil(keys_seen(last, bounds, causal=causal), tile),
    )
    if is_from_first(bounds, window=window):
        return tiles
    # At most `end` each, and none before the one before it: what is not seen has no tiles.
    begin = jnp.minimum(_floor(first_seen(first, bounds, window=window), tile), tiles.end)
    clear = _ceil(first_seen(last, bounds, window=window), tile)
    clear = jnp.minimum(jnp.maximum(clear, begin), tiles.end)
    return tiles._replace(first=begin, clear=clear, whole=jnp.maximum(tiles.whole, clear))


def is_from_first(bounds: Bounds, *, window: int | None) -> bool:
    """Whether all see `k` from its first key on, as is known before the program runs."""
    return window is None and isinstance(bounds.begin, int) and bounds.begin == 0


def split(
    index: Array, count: int, length: Array, *, tile: int, begin: Array | int = 0
) -> tuple[Array, Array]:
    """Tiles [start, end) of `length` valid keys that part `index` of `count` takes.

    The valid keys are shared out, not the capacity, from tile `begin` on: parts differ by one
    tile at most.
    """
    tiles = _ceil(length, tile)
    if not isinstance(begin, int):
        tiles = jnp.maximum(tiles - begin, 0)
    first = lax.div(index * tiles, jnp.int32(count))
    end = lax.div((index + 1) * tiles, jnp.int32(count))
    return (first, end) if isinstance(begin, int) else (begin + first, begin + end)


def _floor(x: Array | int, tile: int) -> Array:
    return lax.div(jnp.int32(x), jnp.int32(tile))  # of no negative number


def _ceil(x: Array | int, tile: int) -> Array:
    return lax.div(jnp.int32(x) + (tile - 1), jnp.int32(tile))
