"""Phase 1 in steps: as far as it says, equal to `prefill`, and gone when it is dropped."""

import functools
import gc
from typing import Any

import jax
import numpy as np
import pytest
import tiny

import star_jax
from star_jax import Dense, Engine, Star

STAR = Star(block_size=16, anchor_size=8)
MENDED = Star(block_size=16, anchor_size=8, halo=4, correction="both", stride=8)


@functools.cache
def engine(kind: Any = STAR) -> Engine:
    return Engine(tiny.model(), mesh=star_jax.make_mesh(context=2, data=2), attention=kind)


def same(one: Any, other: Any) -> None:
    assert one.tokens == other.tokens
    for ours, theirs in zip(one.groups, other.groups, strict=True):
        assert ours.rows == theirs.rows and ours.encoded == theirs.encoded
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), ours.cache, theirs.cache)


@pytest.mark.parametrize("kind", [STAR, MENDED], ids=lambda kind: kind.label)
def test_a_step_is_a_wave(kind: Any) -> None:
    e, ids = engine(kind), tiny.ids(150)
    prefilling = e.prefilling(ids)
    assert prefilling.tokens == 150 and prefilling.done == 0
    assert list(prefilling) == [32, 64, 96, 128, 150] and prefilling.done == 150
    same(prefilling.context, e.prefill(ids))


def test_rows_of_a_batch_count_together() -> None:
    e, rows = engine(), [tiny.ids(n) for n in (100, 40, 3000, 3000)]
    prefilling = e.prefilling(rows)
    seen = list(prefilling)
    assert len(seen) == 94 + 4 and seen == sorted(set(seen)) and seen[-1] == 6140
    same(prefilling.context, e.prefill(rows))


def test_extending_tells_what_is_new_too() -> None:
    e, ids = engine(), tiny.ids(150)
    context = e.prefill(ids[:70])
    extending = e.extending(context, ids[70:])
    assert list(extending) == [96, 128, 150]
    same(extending.context, e.extend(context, ids[70:]))


def test_exact_attention_takes_one_step() -> None:
    e = engine(Dense())
    prefilling = e.prefilling(tiny.ids(150))
    assert list(prefilling) == [150]
    assert prefilling.finish() is prefilling.context


def test_finish_goes_on_from_where_it_is() -> None:
    e, ids = engine(), tiny.ids(150)
    prefilling = e.prefilling(ids)
    assert next(iter(prefilling)) == 32
    with pytest.raises(ValueError, match="32 of 150 tokens are encoded"):
        _ = prefilling.context
    same(prefilling.finish(), e.prefill(ids))
    assert list(prefilling) == []


def test_what_is_dropped_leaves_nothing() -> None:
    e, ids = engine(), tiny.ids(150)
    e.prefill(ids)  # compiles, and hashes the weights
    before = held()
    prefilling = e.prefilling(ids)
    assert next(iter(prefilling)) == 32 and held() > before
    del prefilling
    assert held() == before


def test_bad_ids_are_refused_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="context"):
        engine().prefilling([])
    with pytest.raises(ValueError, match="999"):
        engine().prefilling([999])
    context = engine().prefill([1, 2])
    with pytest.raises(ValueError, match="more_ids"):
        engine().extending(context, [])


def held() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())
