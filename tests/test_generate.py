"""Where answers end, and what text they have."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

import star_jax
from star_jax import Engine, Star
from star_jax.generate import inputs
from star_jax.generate.compiled import STRIDE
from star_jax.generate.stopping import Answer, Limits, Row
from star_jax.text.tokenizer import Tokenizer


class Letters(Tokenizer):
    """A tokenizer whose token i is `<i>`; token 0 is special."""

    def __init__(self):
        pass

    def decode(self, ids, *, skip_special_tokens=False):
        return "".join(f"<{i}>" for i in ids if i or not skip_special_tokens)


def engine(**options):
    mesh = options.pop("mesh", None) or star_jax.make_mesh(context=2)
    weights = jax.device_put(tiny.model(), NamedSharding(mesh, PartitionSpec()))
    options = {"tokenizer": Letters(), **options}
    return Engine(weights, mesh=mesh, attention=Star(block_size=32), **options)


@pytest.fixture(scope="module")
def asked():
    """An engine, a context, a query, and the first 70 greedy tokens."""
    e = engine()
    context, query = e.prefill(tiny.ids(100)), tiny.ids(5, seed=1)
    answer = e.generate(context, query, max_new_tokens=70)
    assert len(answer.tokens) == 70 > 2 * STRIDE
    assert answer.text == Letters().decode(answer.tokens, skip_special_tokens=True)
    assert answer.stop_reason == "length"
    return e, context, query, answer.tokens


def with_eos(e, *ids):
    other = e.with_attention(e.attention)
    other.eos_token_ids = ids
    return other


@pytest.mark.parametrize("count", [1, 2, STRIDE, STRIDE + 1, STRIDE + 2])
def test_at_most_max_new_tokens(asked, count):
    e, context, query, tokens = asked
    assert e.generate(context, query, max_new_tokens=count).tokens == tokens[:count]


@pytest.mark.parametrize("at", [0, 1, 40])
def test_eos_ends_the_answer_and_is_left_out(asked, at):
    e, context, query, tokens = asked
    first = tokens.index(tokens[at])
    e = with_eos(e, 127 if 127 not in tokens else 126, tokens[at])
    answer = e.generate(context, query, max_new_tokens=70)
    assert (answer.tokens, answer.stop_reason) == (tokens[:first], "eos")
    assert e.generate(context, query, max_new_tokens=70, ignore_eos=True).tokens == tokens


@pytest.mark.parametrize("at", [0, 3, 50])
def test_a_stop_word_ends_the_answer(asked, at):
    """The tokens end with the one that completed it; the text leaves it out."""
    e, context, query, tokens = asked
    word = f"{tokens[at]}>"
    end = next(i for i in range(70) if word in Letters().decode(tokens[: i + 1]))
    answer = e.generate(context, query, max_new_tokens=70, stop=["nowhere", word])
    assert (answer.tokens, answer.stop_reason) == (tokens[: end + 1], "stop")
    whole = Letters().decode(tokens)
    assert answer.text == whole[: whole.index(word)]


def test_a_stop_word_across_tokens(asked):
    e, context, query, tokens = asked
    word = f"<{tokens[4]}><{tokens[5]}"
    answer = e.generate(context, query, max_new_tokens=70, stop=[word])
    whole = Letters().decode(tokens)
    assert answer.text == whole[: whole.index(word)]
    assert word in Letters().decode(answer.tokens)
    assert word not in Letters().decode(answer.tokens[:-1])


def test_rows_of_a_batch_end_apart(asked):
    e, _, query, _ = asked
    contexts = [tiny.ids(100), tiny.ids(60)]
    e = with_eos(e, *range(0, 128, 16))
    single = [e.generate(e.prefill(c), query, max_new_tokens=70) for c in contexts]
    assert e.generate(e.prefill(contexts), query, max_new_tokens=70) == single
    assert len({len(a.tokens) for a in single}) == 2  # otherwise this test says little


def test_a_row_that_is_cut_in_a_stride():
    row = Row(Limits(10, ("b",), (9,)), lambda ids, **_: "".join(" ab"[i] for i in ids))
    row.extend([1, 1], [-1.0, -2.0])
    row.extend([2, 9, 1], [-3.0, -4.0, -5.0])
    assert row.answer() == Answer([1, 1, 2], "aa", "stop")


def test_the_last_logits_alone_are_those_of_all(asked):
    """Queries end in three parts of 128 tokens; what is asked for may lie in two of them."""
    e, context, query, _ = asked
    batch = e.prefill([tiny.ids(40), tiny.ids(50)])
    queries = [[tiny.ids(300), tiny.ids(3)], [tiny.ids(130, seed=2), tiny.ids(256, seed=3)]]
    whole = e.score(batch, queries)
    for last in (1, 4, 200, 1000):
        some = e.score(batch, queries, last=last)
        for one, other in zip(
            *(itertools.chain.from_iterable(x) for x in (some, whole)), strict=True
        ):
            np.testing.assert_array_equal(one, other[-last:])
    assert e.score(context, query, last=1).shape == (1, e.config.vocab_size)
    with pytest.raises(ValueError, match="last=0 must be at least 1"):
        e.score(context, query, last=0)


def test_bad_input_is_named(asked):
    e, context, query, _ = asked
    batch = e.prefill([tiny.ids(40), tiny.ids(50)])
    other = Engine(e.model, mesh=star_jax.make_mesh(context=4), attention=e.attention)
    for message, call in {
        "max_new_tokens=True": lambda: e.generate(context, query, max_new_tokens=True),
        "context must be a list of token": lambda: e.prefill(5),
        "query must be a list of token": lambda: e.generate(context, None, max_new_tokens=1),
        "query must be": lambda: e.score(context, np.asarray(5)),
        "length=0": lambda: context.prefix(0),
        "max_new_tokens=0": lambda: e.generate(context, query, max_new_tokens=0),
        "list of strings": lambda: e.generate(context, query, max_new_tokens=1, stop="x"),
        "empty string": lambda: e.generate(context, query, max_new_tokens=1, stop=[""]),
        "query 1 is empty": lambda: e.score(batch, [[1], []]),
        "3 queries for 2 contexts": lambda: e.score(batch, [[1], [2], [3]]),
        "context is empty": lambda: e.prefill([]),
        "context 1 is empty": lambda: e.prefill([[1], []]),
        "vocabulary has 128": lambda: e.prefill([1, 128]),
        "from -1": lambda: e.score(context, [-1]),
        "is text": lambda: e.prefill("hello"),
        "context 0 must be a list": lambda: e.prefill(["hello"]),
        "context must be a list": lambda: e.prefill([1.7, 2.2]),
        "context 1 must be a list": lambda: e.prefill([[1, 2], 3]),
        "query must be a list": lambda: e.score(context, [1, [2]]),
        "another mesh": lambda: other.score(context, query),
        "needs a tokenizer": lambda: engine(tokenizer=None).generate(
            context, query, max_new_tokens=1, stop=["x"]
        ),
        "block_size=0": lambda: Star(block_size=0),
        "anchor_size=-1": lambda: Star(block_size=2, anchor_size=-1),
        "anchor_size=3 is above block_size=2": lambda: Star(block_size=2, anchor_size=3),
        "16 devices": lambda: star_jax.make_mesh(context=16),
        "at least 1": lambda: star_jax.make_mesh(context=0),
        "dtype='int8'": lambda: Engine.from_pretrained(
            ".", mesh=e.mesh, attention=Star(block_size=1), dtype="int8"
        ),
        "implementation='fast'": lambda: engine(implementation="fast"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_wrong_types_are_refused(asked):
    """By name; or, where annotations are checked as in these tests, by the checker."""
    e, context, query, _ = asked
    wrong: Any = 2.5
    for call in (
        lambda: context.prefix(wrong),
        lambda: e.generate(context, query, max_new_tokens=1, stop=[wrong]),
        lambda: e.generate(context, query, max_new_tokens=wrong),
        lambda: Star(block_size=wrong),
        lambda: Star(block_size=8, anchor_size=wrong),
    ):
        with pytest.raises((ValueError, TypeError), match=r"2\.5"):
            call()


def test_stop_words_may_come_from_a_generator():
    """Which can be gone through once; annotations, checked in tests alone, ask for a list."""
    words = (word for word in ["never", "ever"])
    limits: Any = inputs.limits
    assert limits.__wrapped__(9, words, (), has_tokenizer=True).stop == ("never", "ever")


def test_ids_may_be_arrays(asked):
    e, context, query, tokens = asked
    for kind in (np.asarray, jnp.asarray, tuple):
        again = e.prefill(kind(context.tokens[0]))
        assert again.tokens == context.tokens and not again.is_batch
        answer = e.generate(again, kind(query), max_new_tokens=np.int64(3), stop=None)
        assert answer.tokens == tokens[:3]
    assert e.prefill(np.zeros((2, 40), np.int64)).is_batch


def test_warnings_name_the_numbers():
    e = engine()
    with pytest.warns(UserWarning, match=r"star_jax: 1 block\(s\) of 32 tokens for 2 devices"):
        e.prefill(tiny.ids(20))
    with pytest.warns(UserWarning, match=r"5000 tokens is beyond the model's 4096 positions"):
        e.prefill(tiny.ids(5000))
    with pytest.warns(UserWarning, match=r"may take 4110 positions, beyond the model's 4096"):
        e.generate(e.prefill(tiny.ids(4090)), tiny.ids(5), max_new_tokens=15)
