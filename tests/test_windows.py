"""Layers with windows: exact under Star Attention, wherever blocks, devices and turns end."""

import dataclasses
import functools
from typing import Any

import jax
import literal
import numpy as np
import pytest
import tiny
from further import further
from jax.sharding import NamedSharding, PartitionSpec

import star_jax
from star_jax import Dense, Engine, Ring, Star
from star_jax.cache.sharded import Shards
from star_jax.models import Decoder

TOLERANCE = 1e-4
WINDOW = 11  # of the second and third layer
QUERY = tiny.ids(9, seed=1)


@functools.cache
def model(window: int = WINDOW, windowed: tuple[int, ...] = (1, 2), layers: int = 3) -> Decoder:
    made = tiny.model(num_hidden_layers=layers)
    made.config = dataclasses.replace(made.config, window=window, windowed=frozenset(windowed))
    return made


def engine(attention: Any, of: Decoder | None = None, **axes: Any) -> Engine:
    mesh = star_jax.make_mesh(**axes)
    weights = jax.device_put(model() if of is None else of, NamedSharding(mesh, PartitionSpec()))
    return Engine(weights, mesh=mesh, attention=attention)


def check(star: Star, length: int, **axes: Any) -> None:
    """Keys, values and logits are those of masks that are written out."""
    e = engine(star, **axes)
    context = tiny.ids(length)
    logits, k, v = literal.score(model(), context, QUERY, star)
    encoded = e.prefill(context)
    for found, expected in zip(tiny.kept(e, encoded), (k, v), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert tiny.difference(one, other) < TOLERANCE
    assert tiny.difference(e.score(encoded, QUERY), logits) < TOLERANCE


# Blocks above, at and below what the window reaches.
@pytest.mark.parametrize(("block", "context"), [(10, 4), (3, 4), *further((16, 4), (3, 1))])
def test_star_with_windows_equals_masks(block: int, context: int) -> None:
    check(Star(block_size=block, anchor_size=2), 150, context=context)


@pytest.mark.parametrize("length", [17, *further(1)])
def test_contexts_that_are_shorter_than_the_window_or_end_anywhere(length: int) -> None:
    check(Star(block_size=8, halo=3), length, context=4)


@pytest.mark.parametrize("correction", ["both", *further("delta")])
def test_halo_and_corrections_are_of_the_layers_without_windows(correction: str) -> None:
    star = Star(block_size=12, anchor_size=3, halo=5, correction=correction, stride=4)
    check(star, 170, context=4)


@pytest.mark.long
def test_all_layers_with_windows_are_exact() -> None:
    of = model(windowed=(0, 1, 2))
    context, exact = tiny.ids(130), engine(Dense(), of)
    expected = exact.score(exact.prefill(context), QUERY)
    for star in (Star(block_size=16, anchor_size=0), Star(block_size=4)):
        e = engine(star, of, context=4)
        assert tiny.difference(e.score(e.prefill(context), QUERY), expected) < TOLERANCE
    other = engine(Star(block_size=4), model(), context=4)  # or all would be equal
    assert tiny.difference(other.score(other.prefill(context), QUERY), expected) > 1e-2


@pytest.mark.parametrize("window", [1, *further(2, 200)])
def test_the_smallest_windows_and_one_that_hides_nothing(window: int) -> None:
    of, context = model(window, windowed=(0, 1), layers=2), tiny.ids(60)
    e = engine(Star(block_size=16), of, context=2)
    both = context + QUERY
    expected = tiny.forward(of, both, range(len(both)))[0][len(context) :]
    assert tiny.difference(e.score(e.prefill(context), QUERY), expected) < TOLERANCE
    if window > len(both):
        plain = tiny.forward(tiny.model(), both, range(len(both)))[0][len(context) :]
        assert tiny.difference(expected, plain) < 1e-5


@pytest.mark.parametrize(
    "attention",
    [Star(block_size=8, anchor_size=3), pytest.param(Ring(), marks=pytest.mark.long)],
    ids=str,
)
def test_ragged_batches_prefixes_documents_and_samples(attention: Any) -> None:
    e = engine(attention, data=2, context=4)
    rows = [tiny.ids(n) for n in (70, 4, 72)]
    asks = [[tiny.ids(3, seed=1), tiny.ids(14, seed=2)]] * 3
    batch = e.prefill(rows)
    scores = e.score(batch, asks)
    answers = e.generate(batch, asks, max_new_tokens=25, ignore_eos=True)
    for row, ask, score, answer in zip(rows, asks, scores, answers, strict=True):
        single = e.prefill(row)
        for query, logits, one in zip(ask, score, answer, strict=True):
            assert tiny.difference(logits, e.score(single, query)) < 1e-5
            alone = e.generate(single, query, max_new_tokens=25, ignore_eos=True)
            assert one.tokens == alone.tokens
    long = e.prefill(rows[0])
    drawn = e.generate(long, QUERY, max_new_tokens=4, samples=3, sampling={"temperature": 0.0})
    alone = e.generate(long, QUERY, max_new_tokens=4)
    assert [one.tokens for one in drawn] == [alone.tokens] * 3
    if isinstance(attention, Star):
        return
    whole = tiny.forward(model(), rows[0], range(len(rows[0])))[0]
    expected = jax.nn.log_softmax(whole)[np.arange(69), np.asarray(rows[0][1:])]
    assert tiny.difference(e.score_document(rows[0], window=16).logprobs, expected) < TOLERANCE
    part = e.score(long.prefix(30), rows[0][30:40])
    assert tiny.difference(part, whole[30:40]) < TOLERANCE


@pytest.mark.parametrize("block", [3, *further(16)])
def test_a_context_that_is_extended_is_as_if_encoded_at_once(block: int) -> None:
    e = engine(Star(block_size=block, anchor_size=2, halo=1), context=4)
    ids = tiny.ids(200)
    extended = e.extend(e.prefill(ids[:130]), ids[130:])
    assert tiny.difference(e.score(extended, QUERY), e.score(e.prefill(ids), QUERY)) < 1e-5


@pytest.mark.long
def test_a_dialogue_sees_its_turns_through_windows() -> None:
    """Turns are shorter and longer than the window; each is asked after the ones before."""
    e = engine(Dense(), context=2)
    said, context = tiny.ids(40), e.prefill(tiny.ids(40))
    for seed, count in ((2, 3), (3, 15)):
        turn = tiny.ids(count, seed=seed)
        asked = e.start(context, turn, max_new_tokens=2, ignore_eos=True)
        (made,) = asked.finish()
        context, said = asked.context, said + turn + made.tokens
    both = said + QUERY
    expected = tiny.forward(model(), both, range(len(both)))[0][len(said) :]
    assert tiny.difference(e.score(context, QUERY), expected) < TOLERANCE
    answer = e.generate(context, QUERY, max_new_tokens=15, ignore_eos=True)
    room = len(both) + 15
    for _ in range(15):
        padded = both + [0] * (room - len(both))
        logits = tiny.forward(model(), padded, range(room))[0][len(both) - 1]
        both = [*both, int(np.argmax(logits))]
    assert answer.tokens == both[-15:]


def test_generation_beyond_the_window() -> None:
    """The window leaves the context, then the query, and then the first generated tokens."""
    of, context, count = model(6), tiny.ids(50), 30
    e = engine(Dense(), of, context=4)
    answer = e.generate(e.prefill(context), QUERY, max_new_tokens=count, ignore_eos=True)
    tokens = context + QUERY
    room = len(tokens) + count
    for _ in range(count):
        padded = tokens + [0] * (room - len(tokens))
        logits = tiny.forward(of, padded, range(room))[0][len(tokens) - 1]
        tokens.append(int(np.argmax(logits)))
    assert answer.tokens == tokens[-count:]


def test_where_the_last_tokens_lie() -> None:
    shards = Shards(((0, 12), (4, 16), (8, 20)), 4)
    found = shards.last([14, 2, 0], 5)
    assert found.tolist() == [
        [[-1, -1, -1, 4, 5], [-1] * 5, [1, 2, 3, -1, -1]],
        [[-1, -1, -1, 0, 1], [-1] * 5, [-1] * 5],
        [[-1] * 5] * 3,
    ]
