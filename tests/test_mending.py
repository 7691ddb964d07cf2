"""Halo and corrections equal their definitions, on any mesh; and what else is to hold of them."""

import dataclasses
import functools
import itertools

import jax
import literal
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Dense, Engine, Star
from star_jax.attention import xla
from star_jax.prefill import correction, waves

TOLERANCE = 1e-4
BLOCK = 32


@functools.cache
def model():
    return tiny.model()


@functools.cache
def defined(length, star):
    return literal.score(model(), tiny.ids(length), tiny.ids(9, seed=1), star)


def engine(star, **mesh):
    return Engine(model(), mesh=star_jax.make_mesh(**mesh), attention=star)


def check_equal(e, context, star, row=0):
    length = len(context.tokens[row])
    logits, k, v = defined(length, star)
    for actual, expected in zip(tiny.kept(e, context, row), (k, v), strict=True):
        for one, other in zip(actual, expected, strict=True):
            assert tiny.difference(one, other) < TOLERANCE
    score = e.score(context, tiny.ids(9, seed=1))
    assert tiny.difference(score[row] if context.is_batch else score, logits) < TOLERANCE


def check(star, length, **mesh):
    e = engine(star, **mesh)
    check_equal(e, e.prefill(tiny.ids(length)), star)


MENDED = [
    Star(block_size=BLOCK, halo=8),
    Star(block_size=BLOCK, halo=BLOCK, anchor_size=0),
    Star(block_size=BLOCK, halo=8, correction="delta", stride=5),
    Star(block_size=BLOCK, halo=8, anchor_size=8, correction="tangent", stride=5),
    Star(block_size=BLOCK, halo=3, anchor_size=31, correction="tangent", stride=16),
    Star(block_size=BLOCK, halo=24, anchor_size=8, correction="both", stride=16),
    Star(block_size=BLOCK, correction="tangent", stride=64),
]
BESIDE = [(0, 1), (8, 31), (32, 32)]  # anchors and halos
ALL_BESIDE = [*itertools.product((0, 8, 32), (0, 1, 31, 32))]


@pytest.mark.long
def test_a_halo_of_none_and_no_correction_are_the_published_algorithm_bit_for_bit():
    """The programs are the same: neither leaves anything in them."""
    star, none = Star(block_size=BLOCK), Star(block_size=BLOCK, halo=0, correction=None, stride=7)
    plain, other = engine(star, context=4), engine(none, context=4)
    for actual, expected in zip(
        tiny.kept(other, other.prefill(tiny.ids(333))),
        tiny.kept(plain, plain.prefill(tiny.ids(333))),
        strict=True,
    ):
        for one, two in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, two)


def test_without_any_of_them_the_definition_is_the_published_algorithm():
    for star in (Star(block_size=BLOCK), Star(block_size=BLOCK, anchor_size=7)):
        k, v = literal.encode(model(), tiny.ids(150), star)
        published = tiny.literal_star(model(), tiny.ids(150), BLOCK, star.anchor)
        for actual, expected in zip((k, v), published, strict=True):
            for one, other in zip(actual, expected, strict=True):
                assert tiny.difference(one, other) < 1e-5


@pytest.mark.parametrize("context", [8, *further(1)])
@pytest.mark.parametrize("star", MENDED, ids=lambda star: star.label)
def test_equal_to_the_definition_on_one_device_and_eight(star, context):
    for length in (333, 32 * 8):
        check(star, length, context=context)


@pytest.mark.parametrize(
    ("anchor", "halo"),
    [*BESIDE, *further(*(pair for pair in ALL_BESIDE if pair not in BESIDE))],
)
def test_every_halo_beside_every_anchor(halo, anchor):
    """Block 1's halo and anchor may have keys in common; they count once."""
    how = None if halo == 1 else "tangent"
    star = Star(block_size=BLOCK, anchor_size=anchor, halo=halo, correction=how, stride=16)
    check(star, 200, context=1 if (halo + anchor // 8) % 2 else 4)


@pytest.mark.parametrize(
    ("correction", "stride"),
    [
        ("both", 5),
        ("delta", 64),
        ("tangent", 16),
        *further(*(("both", stride) for stride in (1, 16, 64)), ("delta", 5)),
    ],
)
def test_every_stride(stride, correction):
    star = Star(block_size=37, anchor_size=11, halo=4, correction=correction, stride=stride)
    check(star, 300, context=4)


@pytest.mark.parametrize("correction", ["both", *further("delta", "tangent")])
def test_a_stride_of_one_is_exact_attention(correction):
    query = tiny.ids(9, seed=1)
    star = engine(
        Star(block_size=BLOCK, anchor_size=8, halo=4, correction=correction, stride=1),
        context=4,
    )
    exact = star.with_attention(Dense())
    expected = exact.score(exact.prefill(tiny.ids(300)), query)
    assert tiny.difference(star.score(star.prefill(tiny.ids(300)), query), expected) < TOLERANCE
    published = star.with_attention(Star(block_size=BLOCK, anchor_size=8))
    other = published.score(published.prefill(tiny.ids(300)), query)
    assert tiny.difference(other, expected) > 100 * TOLERANCE


@pytest.mark.parametrize("star", [MENDED[3], *further(MENDED[2])], ids=lambda star: star.label)
def test_a_ragged_batch_on_every_axis(star):
    e = engine(star, data=2, context=2, tensor=2)
    lengths = (150, 40, 333)
    batch = e.prefill([tiny.ids(n) for n in lengths])
    for row in range(3):
        check_equal(e, batch, star, row)


@pytest.mark.parametrize(
    "star",
    [Star(block_size=BLOCK), MENDED[1], MENDED[-2], *further(MENDED[0], MENDED[-3])],
    ids=lambda star: star.label,
)
def test_an_extended_context_is_one_that_was_encoded_at_once(star):
    e = engine(star, context=4)
    whole = tiny.ids(333)
    for lengths in ((20, 150), (150, 151), (128, 200, 333), (64, 333)):
        held = e.prefill(whole[: lengths[0]])
        for before, length in itertools.pairwise(lengths):
            longer = e.extend(held, whole[before:length])
            assert longer.tokens[0] == whole[:length]
            assert len(held.tokens[0]) == before
            held = longer
        expected = e.prefill(whole[: lengths[-1]])
        query = tiny.ids(9, seed=1)
        assert tiny.difference(e.score(held, query), e.score(expected, query)) < 1e-5
        for actual, other in zip(tiny.kept(e, held), tiny.kept(e, expected), strict=True):
            for one, two in zip(actual, other, strict=True):
                assert tiny.difference(one, two) < 1e-5


def test_a_prefix_that_is_extended_takes_the_room_of_its_tokens():
    e = engine(Star(block_size=BLOCK, halo=8), context=2)
    held = e.prefill(tiny.ids(16 * BLOCK)).prefix(2 * BLOCK)
    for seed in range(3):
        held = e.extend(held, tiny.ids(40, seed=seed))
    at_once = e.prefill(held.tokens[0])
    taken, expected = (
        [leaf.shape for leaf in jax.tree.leaves(context.groups[0].cache.layers)]
        for context in (held, at_once)
    )
    assert taken == expected
    query = tiny.ids(9, seed=1)
    assert tiny.difference(e.score(held, query), e.score(at_once, query)) < 1e-5


def test_extending_encodes_no_earlier_wave(monkeypatch):
    e = engine(Star(block_size=BLOCK, halo=8), context=4)
    held = e.prefill(tiny.ids(400))  # of three waves and a part
    encoded = []
    programs = waves.programs

    def counted(*key):
        first, later = programs(*key)

        def run(which, program):
            def called(*inputs):
                encoded.append(which)
                return program(*inputs)

            return called

        return run("first", first), run("later", later)

    monkeypatch.setattr(waves, "programs", counted)
    longer = e.extend(held, tiny.ids(200, seed=5))
    assert encoded == ["later", "later"]  # tokens 384 ... 600
    e.extend(longer.prefix(384), [1])
    assert encoded == ["later"] * 3


def test_batches_parts_and_dialogues_are_extended():
    star = Star(block_size=BLOCK, halo=8, correction="tangent", stride=16)
    e, query = engine(star, data=2, context=2), tiny.ids(9, seed=1)
    rows, more = [tiny.ids(150), tiny.ids(300)], [tiny.ids(70, seed=3), []]
    batch = e.extend(e.prefill(rows), more)
    expected = e.prefill([a + b for a, b in zip(rows, more, strict=True)])
    for one, other in zip(e.score(batch, query), e.score(expected, query), strict=True):
        assert tiny.difference(one, other) < 1e-5
    whole = e.prefill(rows[1])
    part = e.extend(whole.prefix(130), rows[1][130:200])
    expected = e.prefill(rows[1][:200])
    assert tiny.difference(e.score(part, query), e.score(expected, query)) < 1e-5
    generation = e.start(whole, query, max_new_tokens=4, ignore_eos=True)
    answer = generation.finish()[0]
    longer = e.extend(generation.context, [3, 4])
    expected = e.prefill([*rows[1], *query, *answer.tokens, 3, 4])
    assert not longer.has_turns
    assert tiny.difference(e.score(longer, query), e.score(expected, query)) < 1e-5


def test_exact_kinds_are_extended_too():
    e, query = engine(Dense(), context=2), tiny.ids(9, seed=1)
    longer = e.extend(e.prefill(tiny.ids(100)), tiny.ids(50, seed=4))
    expected = e.prefill(tiny.ids(100) + tiny.ids(50, seed=4))
    assert tiny.difference(e.score(longer, query), e.score(expected, query)) < 1e-6


def test_what_cannot_be_extended_is_named():
    e = engine(Star(block_size=BLOCK), context=2)
    held = e.prefill(tiny.ids(150))
    other = e.with_attention(Star(block_size=BLOCK, halo=4))
    with pytest.raises(ValueError, match=r"anchor_size=32\).*halo=4\).*that has the same"):
        other.extend(held, [1])
    for bad in ([], [[1]], [128], "text"):
        with pytest.raises(ValueError, match="more_ids"):
            e.extend(held, bad)
    batch = e.prefill([[1, 2], [3]])
    for bad in ([1], [[1]], [[1], [2], [3]]):
        with pytest.raises(ValueError, match="more_ids"):
            e.extend(batch, bad)


@pytest.mark.parametrize(
    "star",
    [
        Star(block_size=BLOCK, halo=8, anchor_size=8, correction="both", stride=5),
        *further(
            Star(block_size=BLOCK, halo=8),
            Star(block_size=BLOCK, halo=8, correction="delta", stride=5),
        ),
    ],
    ids=lambda star: star.label,
)
def test_no_token_changes_what_comes_before_it(star):
    e = engine(star, context=4)
    tokens = tiny.ids(300)
    before = tiny.kept(e, e.prefill(tokens))
    for at in (5, 40, 97, 130, 255):
        changed = [*tokens[:at], (tokens[at] + 1) % 128, *tokens[at + 1 :]]
        after = tiny.kept(e, e.prefill(changed))
        for actual, expected in zip(after, before, strict=True):
            for one, other in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(one[:, :at], other[:, :at])
                assert not np.array_equal(one[:, at:], other[:, at:])


@pytest.mark.long
def test_long_blocks_go_through_tiles_and_choose_part_by_part(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    monkeypatch.setattr(xla, "FEW_QUERIES", 0)
    monkeypatch.setattr(correction, "ROWS", 64)
    waves.programs.cache_clear()
    check(
        Star(block_size=200, anchor_size=70, halo=90, correction="both", stride=3), 777, context=2
    )
    waves.programs.cache_clear()


@pytest.mark.long
def test_half_precision_stays_near():
    star = Star(block_size=BLOCK, halo=24, anchor_size=8, correction="both", stride=5)
    mesh = star_jax.make_mesh(context=4)
    e = Engine(tiny.model(dtype="bfloat16"), mesh=mesh, attention=star)
    score = e.score(e.prefill(tiny.ids(300)), tiny.ids(9, seed=1))
    assert tiny.difference(score, defined(300, star)[0]) < 0.1


def test_a_tangent_of_capped_scores_is_refused():
    config = tiny.config()
    capped = tuple(dataclasses.replace(layer, soft_cap=30.0) for layer in config.layers)
    config.__dict__["layers"] = capped  # where it is computed once; no family here has any
    mesh = star_jax.make_mesh()
    Star(block_size=BLOCK, halo=8, correction="delta").check(config, mesh)
    for how in ("tangent", "both"):
        with pytest.raises(NotImplementedError, match="soft caps"):
            Star(block_size=BLOCK, correction=how).check(config, mesh)


def test_what_cannot_be_is_named():
    for fields, message in (
        ({"halo": 33}, "halo=33 is above block_size=32"),
        ({"halo": -1}, "halo=-1 must be at least 0"),
        ({"correction": "gamma"}, "correction='gamma' must be one of"),
        ({"correction": "delta", "stride": 0}, "stride=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Star(block_size=BLOCK, **fields)
