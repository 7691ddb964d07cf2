"""The tile arithmetic of the GPU kernels, against a table of who sees what."""

import functools
import itertools

import jax.numpy as jnp
import pytest

from star_jax.attention.tiles import Bounds, first_seen, keys_seen, split, visited

LENGTHS = (0, 1, 5, 16, 17, 40)
OFFSETS = (-50, -3, 0, 2, 30)


def seen_by(query, keys, bounds, *, causal):
    return [
        j for j in range(keys) if j < bounds.length and (not causal or j <= query + bounds.offset)
    ]


@pytest.mark.parametrize("causal", [True, False])
def test_a_query_sees_the_first_so_many_keys(causal):
    for offset, length in itertools.product(OFFSETS, LENGTHS):
        bounds = Bounds(offset, length, 0)
        counts = keys_seen(jnp.arange(30), bounds, causal=causal)
        assert list(counts) == [len(seen_by(i, 40, bounds, causal=causal)) for i in range(30)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tile", [8, 16])
def test_whole_tiles_need_no_mask_and_none_is_forgotten(tile, causal):
    for offset, length, first in itertools.product(OFFSETS, LENGTHS, (0, 7, 16)):
        bounds = Bounds(offset, length, prefix=length)
        rows = range(first, first + 12)
        tiles = visited(jnp.int32(rows[0]), jnp.int32(rows[-1]), bounds, tile=tile, causal=causal)
        seen = [set(seen_by(i, 40, bounds, causal=causal)) for i in rows]
        everyone, anyone = set.intersection(*seen), set.union(*seen)
        for j in range(5):
            keys = set(range(j * tile, (j + 1) * tile))
            assert (j < tiles.whole) == (keys <= everyone)
            assert (j < tiles.end) == bool(keys & anyone)
            prefix = set(range(length))
            assert (j < tiles.prefix_whole) == (keys <= prefix)
            assert (j < tiles.prefix_end) == bool(keys & prefix)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_parts_share_the_valid_keys_out_evenly(count):
    for length in (0, 1, 64, 65, 1000, 64 * 33):
        parts = [split(jnp.int32(i), count, jnp.int32(length), tile=64) for i in range(count)]
        taken = [t for start, end in parts for t in range(int(start), int(end))]
        assert taken == list(range(-(-length // 64)))
        sizes = [int(end) - int(start) for start, end in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 5, 8, 20, 100])
def test_a_window_has_a_first_tile_and_masks_at_both_ends(window, causal):
    """Tiles without a mask lie between those with one, and each that is seen is among them."""
    queries, keys, tile = 12, 48, 8
    of_windows = functools.partial(first_seen, window=window)
    for offset, length, begin in itertools.product((-50, -3, 2, 30), (0, 17, 48), (0, 3, 16, 60)):
        bounds = Bounds(offset, length, prefix=0, begin=jnp.int32(begin))
        rows = jnp.arange(7, 7 + queries)
        seen = [
            {
                j
                for j in seen_by(i, keys, bounds, causal=causal)
                if j >= begin and (window is None or j > i + offset - window)
            }
            for i in rows.tolist()
        ]
        low, high = of_windows(rows, bounds), keys_seen(rows, bounds, causal=causal)
        assert seen == [set(range(a, b)) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        tiles = visited(rows[0], rows[-1], bounds, tile=tile, causal=causal, window=window)
        first, clear, whole, end = map(int, tiles[2:])
        assert 0 <= first <= clear <= whole <= end <= keys // tile
        everyone, anyone = set.intersection(*seen), set.union(*seen)
        for j in range(keys // tile):
            of_tile = set(range(j * tile, (j + 1) * tile))
            assert (clear <= j < whole) == (of_tile <= everyone)
            assert first <= j < end or not of_tile & anyone
        if anyone:
            assert (first, end) == (min(anyone) // tile, max(anyone) // tile + 1)
