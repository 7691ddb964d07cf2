"""Star Attention on any mesh equals the literal algorithm; and the equalities between kinds."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
import tiny
from further import further
from jax.sharding import NamedSharding, PartitionSpec

import star_jax
from star_jax import Dense, Engine, Ring, Star, Ulysses
from star_jax.attention import xla
from star_jax.prefill import waves
from star_jax.runtime.runtime import Runtime

BLOCK = 32
TOLERANCE = 1e-4


@functools.cache
def model(**fields):
    return tiny.model(**fields)


def engine(attention, *, data=1, context=1, **options):
    mesh = star_jax.make_mesh(data=data, context=context)
    weights = jax.device_put(model(), NamedSharding(mesh, PartitionSpec()))
    return Engine(weights, mesh=mesh, attention=attention, **options)


@functools.cache
def literal(length, query_length, block, anchor):
    return tiny.literal_score(
        model(), tiny.ids(length), tiny.ids(query_length, seed=1), block, anchor
    )


def check(star, length, *, query_length=9, **mesh):
    e = engine(star, **mesh)
    context = e.prefill(tiny.ids(length))
    logits, k, v = literal(length, query_length, star.block_size, star.anchor)
    for actual, expected in zip(tiny.kept(e, context), (k, v), strict=True):
        for one, other in zip(actual, expected, strict=True):
            assert tiny.difference(one, other) < TOLERANCE
    score = e.score(context, tiny.ids(query_length, seed=1))
    assert score.shape == logits.shape and score.dtype == np.float32
    assert tiny.difference(score, logits) < TOLERANCE


LENGTHS = {
    "one token": 1,
    "below a block": 20,
    "one block": 32,
    "one more": 33,
    "a multiple": 128,
    "no multiple": 150,
    "eight blocks": 256,
    "five times": 5 * 8 * 32 - 7,
}


@pytest.mark.parametrize(
    ("length", "context"),
    [
        *((n, 8) for n in LENGTHS.values()),
        (150, 2),
        *further((32, 1), (150, 1), (1273, 1), (32, 2), (1273, 2)),
    ],
)
def test_star_equals_the_literal_algorithm(length, context):
    check(Star(block_size=BLOCK), length, context=context)


@pytest.mark.parametrize("length", [150, *further(300)])
@pytest.mark.parametrize("anchor", [0, 8, *further(1, 31)])
def test_shorter_anchors_and_none(anchor, length):
    check(Star(block_size=BLOCK, anchor_size=anchor), length, context=4)


@pytest.mark.parametrize("query_length", [1, 100, *further(40)])
def test_queries_of_any_length(query_length):
    """100 query tokens are more than the 64 keys of a shard."""
    check(Star(block_size=16), 128, query_length=query_length, context=4)


@pytest.mark.long
def test_blocks_of_no_round_size():
    check(Star(block_size=37, anchor_size=11), 200, context=4)


def test_long_blocks_go_through_tiles(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    monkeypatch.setattr(xla, "FEW_QUERIES", 0)
    check(Star(block_size=200, anchor_size=70), 777, query_length=70, context=2)


@pytest.mark.parametrize("length", [1, 203])
@pytest.mark.parametrize(
    ("kind", "context"),
    [(Dense(), 8), (Ring(), 1), (Ring(), 8), (Ulysses(), 2)],
)
def test_exact_attention_equals_one_forward(kind, context, length):
    """Prefill, then score, equals one causal forward over both."""
    e = engine(kind, context=context)
    query_length = 9
    both = tiny.ids(length) + tiny.ids(query_length, seed=1)
    logits, k, _ = tiny.forward(model(), both, range(len(both)))
    expected = logits[length:]
    state = e.prefill(tiny.ids(length))
    assert tiny.difference(e.score(state, tiny.ids(query_length, seed=1)), expected) < TOLERANCE
    for actual, other in zip(tiny.kept(e, state)[0], k, strict=True):
        assert tiny.difference(actual, other[:, :length]) < TOLERANCE


@pytest.mark.long
def test_one_block_is_dense_attention():
    query = tiny.ids(9, seed=1)
    for length in (20, 64):
        star = engine(Star(block_size=64), context=2)
        one = star.score(star.prefill(tiny.ids(length)), query)
        for kind in (Dense(), Ring(), Ulysses()):
            exact = star.with_attention(kind)
            assert tiny.difference(one, exact.score(exact.prefill(tiny.ids(length)), query)) < 1e-4


@pytest.mark.long
def test_a_ragged_batch_equals_single_runs():
    """So do the exact kinds: `test_meshes`."""
    e = engine(Star(block_size=BLOCK, anchor_size=8), data=2, context=4)
    lengths, queries = (150, 40, 256), (3, 16, 1)
    rows = [tiny.ids(n) for n in lengths]
    asks = [tiny.ids(n, seed=1) for n in queries]
    batch = e.prefill(rows)
    scores = e.score(batch, asks)
    answers = e.generate(batch, asks, max_new_tokens=5)
    assert len(scores) == len(answers) == 3
    for row, ask, score, answer in zip(rows, asks, scores, answers, strict=True):
        single = e.prefill(row)
        assert tiny.difference(score, e.score(single, ask)) < 1e-5
        assert answer.tokens == e.generate(single, ask, max_new_tokens=5).tokens


@pytest.mark.parametrize(
    "attention", [Star(block_size=BLOCK), *further(Star(block_size=BLOCK, anchor_size=0))]
)
def test_greedy_tokens_equal_the_literal_ones(attention):
    e = engine(attention, context=4)
    context, query, count = tiny.ids(150), tiny.ids(9, seed=1), 40
    answer = e.generate(e.prefill(context), query, max_new_tokens=count)
    expected, gaps = tiny.literal_generate(model(), context, query, BLOCK, attention.anchor, count)
    sure = next((i for i, gap in enumerate(gaps) if gap < 10 * TOLERANCE), count)
    assert sure > count // 2  # otherwise this test says little
    assert answer.tokens[:sure] == expected[:sure]
    assert len(answer.tokens) == count and answer.stop_reason == "length"


def test_a_context_is_not_consumed():
    e = engine(Star(block_size=BLOCK), context=4)
    context, other = e.prefill(tiny.ids(150)), e.prefill(tiny.ids(90))
    query = tiny.ids(9, seed=1)
    first = e.generate(context, query, max_new_tokens=8)
    e.generate(context, tiny.ids(40, seed=2), max_new_tokens=3)
    e.score(other, query)
    assert e.generate(context, query, max_new_tokens=8) == first


def test_ten_contexts_compile_two_wave_programs(monkeypatch):
    program = Runtime.program

    def once(self, f, *layouts, **options):
        return program(self, chex.assert_max_traces(f, n=1), *layouts, **options)

    monkeypatch.setattr(Runtime, "program", once)
    waves.programs.cache_clear()
    e = engine(Star(block_size=48, anchor_size=24), context=4)
    for length in (49, 60, 96, 100, 192, 193, 300, 500, 777, 1000):
        e.prefill(tiny.ids(length))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        e.prefill(tiny.ids(20))  # which fits a smaller block
    waves.programs.cache_clear()


@pytest.mark.long
def test_ten_contexts_of_one_capacity_compile_two_mended_programs(monkeypatch):
    program = Runtime.program
    once = lambda self, f, *layouts, **options: program(  # noqa: E731
        self, chex.assert_max_traces(f, n=1), *layouts, **options
    )
    monkeypatch.setattr(Runtime, "program", once)
    waves.programs.cache_clear()
    e = engine(Star(block_size=8, anchor_size=2, halo=6, correction="both", stride=4), context=4)
    for length in (513, 515, 520, 528, 537, 544, 545, 557, 570, 576):  # 17 or 18 waves
        e.prefill(tiny.ids(length))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        e.prefill(tiny.ids(577))  # which takes more room
    waves.programs.cache_clear()


def test_a_block_that_is_never_valid_is_never_seen():
    """Keys past a shard's valid length change nothing, whatever they are."""
    e = engine(Star(block_size=BLOCK), context=4)
    context, query = e.prefill(tiny.ids(150)), tiny.ids(9, seed=1)
    group = context.groups[0]
    valid, layers = np.asarray(group.cache.valid)[0], group.cache.layers
    shard = layers[0].k.shape[1] // 4
    past = np.concatenate([np.arange(shard) >= n for n in valid])[None, :, None, None]
    poison = lambda x: jax.device_put(np.where(past, 1e4, np.asarray(x)), x.sharding)  # noqa: E731
    poisoned = jax.tree.map(poison, layers)
    assert past.any()
    group = dataclasses.replace(group, cache=group.cache._replace(layers=poisoned))
    other = dataclasses.replace(context, groups=(group,))
    chex.assert_trees_all_equal(e.score(context, query), e.score(other, query))
