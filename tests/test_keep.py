"""Fewer keys: what an engine answers is what exact attention to those that were kept gives."""

import functools
import itertools
from typing import Any

import fewer_keys
import jax
import numpy as np
import pytest
import tiny
from further import further
from key_scores import FORMULAS, norm

import star_jax
from star_jax import Dense, Engine, Keep, OtherAnchor, Star
from star_jax.store import Store

BLOCK, LENGTH, TOLERANCE = 32, 333, 1e-4
VOCAB = 512
QUERY = tiny.ids(9, seed=1)
# All different: in the first layer, keys of the same token have the same norm, but for rounding.
WHOLE = np.random.default_rng(0).permutation(VOCAB)[:LENGTH].tolist()


@functools.cache
def model() -> Any:
    return tiny.model(vocab_size=VOCAB)


def engine(keep: Keep | None, star: Any = None, **mesh: Any) -> Engine:
    star = star or Star(block_size=BLOCK)
    return Engine(model(), mesh=star_jax.make_mesh(**mesh), attention=star, keep=keep)


HALF = Keep(share=0.5, criterion="norm")


@functools.cache
def defined(length: int, star: Star, keep: Keep) -> np.ndarray:
    formula = FORMULAS[keep.criterion]
    return fewer_keys.defined(model(), WHOLE[:length], QUERY, star, keep, formula)


# `test_key_scores` has the other criteria; "norm" is in the tests below.
CASES = {
    "random": (0.25, Star(block_size=BLOCK, anchor_size=8), {"context": 4, "tensor": 2}),
    "keydiff": (0.3, Star(block_size=37, anchor_size=11, halo=5), {}),
    "attention": (0.7, Star(block_size=BLOCK, anchor_size=0), {"context": 8}),
    "expected": (0.6, Star(block_size=BLOCK, anchor_size=30), {"context": 4, "tensor": 2}),
}


@pytest.mark.parametrize("criterion", CASES)
def test_it_is_exact_attention_to_the_keys_that_are_kept(criterion: str) -> None:
    share, star, mesh = CASES[criterion]
    keep = Keep(share=share, criterion=criterion)
    e = engine(keep, star, **mesh)
    expected = defined(LENGTH, star, keep)
    context = e.prefill(WHOLE)
    assert tiny.difference(e.score(context, QUERY), expected) < TOLERANCE
    everything = defined(LENGTH, star, Keep(share=1, criterion="norm"))
    assert tiny.difference(everything, expected) > 0.1  # else this says nothing


def test_a_share_of_one_is_the_plain_cache_bit_for_bit() -> None:
    rows = [WHOLE, WHOLE[:20]]
    e = engine(Keep(share=1, criterion="norm"), context=4)
    plain = engine(None, context=4)
    for one, other in zip(
        e.score(e.prefill(rows), QUERY), plain.score(plain.prefill(rows), QUERY), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def kept_keys(context: Any) -> list[bytes]:
    """The keys of one head of the first layer that a context has, wherever they lie."""
    cache = context.groups[0].cache
    valid, layer = np.asarray(cache.valid)[0], cache.layers[0]
    firsts = np.asarray(layer.firsts)[0]
    found = []
    for part, counts in (
        (layer.first, np.minimum(valid, firsts)),
        (layer.second, np.maximum(valid - firsts, 0)),
    ):
        shards = np.split(np.asarray(part.k)[0, :, 0], len(valid))
        found += [x.tobytes() for one, n in zip(shards, counts, strict=True) for x in one[:n]]
    return sorted(found)


@pytest.mark.long
def test_random_is_the_same_on_one_device_and_on_eight() -> None:
    """In the first layer, whose keys are the same bit for bit."""
    anchor = 8
    keep, star = Keep(share=0.4, criterion="random"), Star(block_size=BLOCK, anchor_size=anchor)
    held = [kept_keys(engine(keep, star, context=c).prefill(WHOLE)) for c in (1, 8)]
    # 10 whole blocks of 32 and one of 13; of the first the anchor is kept whole.
    expected = anchor + int(np.ceil(0.4 * (BLOCK - anchor))) + 9 * 13 + 6
    assert [len(one) for one in held] == [expected] * 2
    assert held[0] == held[1]


def test_bytes_shrink_by_the_share() -> None:
    """Also where each device has one block: not all of them make room for the whole anchor."""
    for waves, share in ((1, 0.5), (2, 0.25)):
        e = engine(Keep(share=share, criterion="random"), context=8)
        layers = e.prefill(tiny.ids(8 * waves * BLOCK)).groups[0].cache.layers
        keys = BLOCK + (8 * waves - 1) * BLOCK * share  # the anchor, and a share of the others
        room = 8 * 8  # each device has room for a multiple of 8
        held = sum(x.nbytes for x in jax.tree.leaves(layers)) / (2 * 2 * 2 * 16 * 4)
        assert keys <= held <= keys + room


def test_unequal_lengths_and_shards_on_every_axis() -> None:
    star = Star(block_size=BLOCK, anchor_size=8)
    e = engine(HALF, star, data=2, context=2, tensor=2)
    lengths = (150, 5, 333, 40)
    batch = e.prefill([WHOLE[:n] for n in lengths])
    for n, score in zip(lengths, e.score(batch, QUERY), strict=True):
        assert tiny.difference(score, defined(n, star, HALF)) < TOLERANCE


@pytest.mark.parametrize("halo", [8, *further(0)])
def test_an_extended_context_is_one_that_was_encoded_at_once(halo: int) -> None:
    e = engine(HALF, Star(block_size=BLOCK, halo=halo), context=4)
    expected = e.score(e.prefill(WHOLE), QUERY)
    held = e.prefill(WHOLE[:128])
    for before, length in itertools.pairwise((128, 151, 300, LENGTH)):
        held = e.extend(held, WHOLE[before:length])
    assert tiny.difference(e.score(held, QUERY), expected) < 1e-5
    batch = e.extend(e.prefill([WHOLE[:150], WHOLE[:300]]), [WHOLE[150:], []])
    assert tiny.difference(e.score(batch, QUERY)[0], expected) < 1e-5


def test_parts_end_where_blocks_do() -> None:
    e, whole = engine(HALF, context=4), WHOLE
    context = e.prefill(whole)
    for length in (BLOCK, 5 * BLOCK, LENGTH, LENGTH + 1):
        expected = e.score(e.prefill(whole[:length]), QUERY)
        assert tiny.difference(e.score(context.prefix(length), QUERY), expected) < 1e-5
    with pytest.raises(NotImplementedError, match=r"first 100 tokens.*multiples of 32 tokens"):
        context.prefix(100)
    store = Store(e, device_bytes=2**30)
    store.add(context)
    found = store.find([*whole[:100], 1, 2, 3])
    assert found is not None
    assert found.tokens == [whole[: 3 * BLOCK]]
    assert store.find([*whole[:100], 1, 2, 3], least=100) is None
    assert store.find(whole) == context  # which is equal to itself alone
    longer = e.extend(context.prefix(5 * BLOCK), whole[5 * BLOCK :])
    assert tiny.difference(e.score(longer, QUERY), e.score(context, QUERY)) < 1e-5


@pytest.mark.long
def test_a_dialogue_goes_on() -> None:
    """Turns keep all of their keys."""
    e, more = engine(HALF, context=2), tiny.ids(7, seed=3)
    context = e.prefill(WHOLE)
    generation = e.start(context, QUERY, max_new_tokens=4, ignore_eos=True)
    (answer,) = generation.finish()
    assert answer.tokens[0] == e.score(context, QUERY)[-1].argmax()
    both = e.score(context, [*QUERY, *answer.tokens, *more])
    assert tiny.difference(e.score(generation.context, more), both[-len(more) :]) < 1e-5


def test_an_empty_query_needs_a_context_that_can_lose_its_last_token() -> None:
    e = engine(HALF, context=4)
    how: Any = {"max_new_tokens": 3, "ignore_eos": True}
    rows = [WHOLE[:200], WHOLE[: 3 * BLOCK + 1]]
    batch: Any = e.prefill(rows)
    says = "an empty query of a context of 200 tokens.*without its last token, and ask that"
    with pytest.raises(NotImplementedError, match=says):
        e.generate(batch, [[], QUERY], **how)
    found = e.generate(batch, [QUERY, []], **how)  # the other row is not cut
    asked: Any = e.prefill([rows[0], rows[1][:-1]])
    expected = e.generate(asked, [QUERY, rows[1][-1:]], **how)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


@pytest.mark.long
def test_documents_are_scored_in_windows_of_whole_blocks(monkeypatch: Any) -> None:
    e = engine(HALF)
    expected = e.likelihood(e.prefill(WHOLE[:64]), WHOLE[64:129]).logprobs
    for window in (BLOCK, 2 * BLOCK):
        found = e.score_document(WHOLE[:129], window=window).logprobs
        assert found.shape == (128,)
        if window == 2 * BLOCK:
            assert np.abs(found[64:] - expected).max() < 1e-4
    short = e.score_document(WHOLE[:40], window=24)  # it is cut within the anchor alone
    assert short.logprobs.shape == (39,)

    def encodes(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it is refused before anything runs")

    monkeypatch.setattr(Star, "encode", encodes)
    says = r"window=24 with Keep\(.*not after 48 tokens; use a multiple of block_size=32"
    with pytest.raises(NotImplementedError, match=says):
        e.score_document([WHOLE[:30], WHOLE[:129]], window=24)


def test_a_store_finds_what_can_be_cut_to_the_most() -> None:
    """Of the longer one, all 31 shared tokens are a part of its first block."""
    e = engine(HALF, Star(block_size=BLOCK, anchor_size=0))
    store = Store(e, device_bytes=2**30)
    shared, other = WHOLE[:31], WHOLE[300:303]
    store.add(e.prefill(WHOLE[:30]))
    store.add(e.prefill(WHOLE[:200]))
    found = store.find([*shared, *other])
    assert found is not None and found.tokens == [WHOLE[:30]]
    # What serves nothing stays where it is.
    store = Store(e, device_bytes=0, host_bytes=2**30)
    store.add(e.prefill(WHOLE[:200]))
    monkey = store._back
    store._back = None  # type: ignore[assignment,method-assign]
    assert store.find([*shared, *other]) is None
    store._back = monkey  # type: ignore[method-assign]
    found = store.find([*WHOLE[:70], *other])
    assert found is not None and found.tokens == [WHOLE[:64]]


def test_layers_with_windows_keep_all() -> None:
    """Every other layer has one."""
    fields: Any = {
        "vocab_size": VOCAB,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 40,
        "max_window_layers": 1,
        "num_hidden_layers": 2,
    }
    weights, star = tiny.model(**fields), Star(block_size=BLOCK, anchor_size=8)
    assert [layer.window for layer in weights.config.layers] == [None, 40]
    mesh = star_jax.make_mesh(context=4)
    e = Engine(weights, mesh=mesh, attention=star, keep=HALF)
    expected = fewer_keys.defined(weights, WHOLE, QUERY, star, HALF, norm)
    assert tiny.difference(e.score(e.prefill(WHOLE), QUERY), expected) < TOLERANCE
    longer = e.extend(e.prefill(WHOLE[:200]), WHOLE[200:])
    assert tiny.difference(e.score(longer, QUERY), expected) < TOLERANCE


def test_what_cannot_be_is_refused() -> None:
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share="):
            Keep(share=share, criterion="norm")
    with pytest.raises(ValueError, match=r"criterion='best' must be one of \['"):
        Keep(share=0.5, criterion="best")
    with pytest.raises(NotImplementedError, match=r"Keep.*with Dense\(\)"):
        engine(HALF, Dense())
    with pytest.raises(NotImplementedError, match=r"Keep.*with OtherAnchor"):
        engine(HALF, OtherAnchor(block_size=32, anchor_size=32))
    with pytest.raises(NotImplementedError, match="'attention' with tensor=4 devices for 2 key"):
        engine(Keep(share=0.5, criterion="attention"), context=2, tensor=4)
    with pytest.raises(NotImplementedError, match="layers all have windows"):
        HALF.check(tiny.config(model_type="mistral", sliding_window=16), tensor=1)
    with pytest.raises(NotImplementedError, match="correction='delta'"):
        engine(HALF, Star(block_size=BLOCK, correction="delta"))


def test_contexts_say_what_is_kept(tmp_path: Any) -> None:
    e = engine(HALF)
    context = e.prefill(tiny.ids(40))
    assert "Keep(share=0.5, criterion='norm')" in repr(context)
    with pytest.raises(NotImplementedError, match=r"Keep\(share=0.5.*cannot be saved"):
        context.save(tmp_path / "c")
    with pytest.raises(ValueError, match=r"Keep\(share=0.5, criterion='norm'\), and this engine"):
        engine(None).extend(context, [1])
