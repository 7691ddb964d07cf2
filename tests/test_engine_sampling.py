"""Sampling and streaming through the engine: reproducible, shared by batches, as NumPy has it."""

import dataclasses
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import test_generate
import test_sampling
import tiny

import star_jax
from star_jax import Engine, Sampling
from star_jax.generate import inputs, sampling, stopping

NEW = 40  # more than a stride
MANY = 2000
WARM = Sampling(temperature=1.3, top_k=20, top_p=0.95, repetition_penalty=1.2, seed=7)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return test_generate.engine(mesh=star_jax.make_mesh(data=2, context=2, tensor=2))


@pytest.fixture(scope="module")
def context(engine):
    return engine.prefill(tiny.ids(100))


QUERY = tiny.ids(5, seed=1)


def ask(engine, context, query=QUERY, **options):
    options = {"max_new_tokens": NEW, "ignore_eos": True, "sampling": WARM, **options}
    return engine.generate(context, query, **options)


def test_every_token_is_what_the_key_draws_from_the_scores(engine, context):
    """Teacher-forced, the same tokens and log-probabilities; so each step has its own key."""
    answer = ask(engine, context)
    scores = jnp.asarray(engine.score(context, QUERY + answer.tokens))[len(QUERY) - 1 : -1]
    how = test_sampling.arrays_of(WARM, 1, inputs.prompts(context, [[QUERY]])[0])
    seen = np.zeros((1, engine.config.vocab_size), bool)
    seen[0, [*tiny.ids(100), *QUERY]] = True
    for step, token in enumerate(answer.tokens):
        choice = sampling.choose(
            scores[step : step + 1], how, jnp.asarray(seen), step, mode=WARM.mode
        )
        assert int(choice.token[0]) == token
        assert abs(float(choice.logprob[0]) - answer.logprobs[step]) < 1e-4
        seen[0, token] = True
    assert len(set(answer.tokens)) > 5
    assert len(answer.logprobs) == NEW


def test_a_seed_gives_the_same_whatever_stands_beside(engine, context):
    """Alone, in a batch, first of several samples, by mapping, in strides of another length."""
    single = ask(engine, context)
    assert ask(engine, context) == single
    fields = {"temperature": 1.3, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 7}
    assert ask(engine, context, sampling=fields) == single
    batch = engine.prefill([tiny.ids(60), tiny.ids(100), tiny.ids(60)])
    again = ask(engine, batch, sampling={**fields, "seed": (1, 7, 2)})
    assert again[1] == single
    assert again[0] != again[2]
    several = ask(engine, context, samples=3)
    assert several[0] == single
    assert len({tuple(answer.tokens) for answer in several}) == 3
    of_batch = ask(engine, batch, sampling={**fields, "seed": (1, 7, 2)}, samples=2)
    assert [pair[0] for pair in of_batch] == again
    assert of_batch[1] == several[:2]
    assert ask(engine, context, sampling={**fields, "seed": 8}) != single
    pieces = list(engine.stream(context, QUERY, max_new_tokens=NEW, sampling=WARM, ignore_eos=True))
    assert "".join(pieces) == single.text
    assert len(pieces) > NEW // 8


def test_draws_depend_on_the_tokens_and_not_on_where_they_are_cut(engine):
    ids, e = tiny.ids(70), engine.with_attention(star_jax.Ring())
    how = {"max_new_tokens": 4, "sampling": {"temperature": 1.0, "seed": 3}}
    whole = e.generate(e.prefill(ids[:60]), ids[60:], **how)
    assert e.generate(e.prefill(ids[:58]), ids[58:], **how) == whole


@pytest.mark.long
def test_equal_rows_draw_apart_and_say_how_to_draw_them_again(engine):
    """One seed for all rows; and none. Rows of padding, and other rows, change nothing."""
    rows = [tiny.ids(60), tiny.ids(100), tiny.ids(60), tiny.ids(60), tiny.ids(100)]
    batch = engine.prefill(rows)
    for seed in (7, None):
        warm = dataclasses.replace(WARM, seed=seed)
        answers = ask(engine, batch, sampling=warm)
        assert len({tuple(a.tokens) for a in answers}) == len(rows)
        assert len({a.seed for a in answers}) >= 3
        for ids, answer in zip(rows, answers, strict=True):
            again = dataclasses.replace(WARM, seed=answer.seed)
            alone = ask(engine, engine.prefill(ids), sampling=again)
            assert (alone.tokens, alone.seed) == (answer.tokens, answer.seed)
    assert ask(engine, batch)[1].tokens == ask(engine, engine.prefill(rows[1])).tokens
    assert [a.seed for a in ask(engine, batch)][:2] == [7, 7]


@pytest.mark.long
def test_equal_contexts_with_other_queries_are_other_questions(engine):
    """With one seed for all, each draws as it would alone, whatever the order."""
    rows, queries = [tiny.ids(60)] * 3, [tiny.ids(5, seed=s) for s in (1, 2, 3)]
    batch = engine.prefill(rows)
    answers = ask(engine, batch, queries)
    assert ask(engine, batch, queries[::-1]) == answers[::-1]
    assert [a.seed for a in answers] == [7] * 3
    assert ask(engine, engine.prefill(rows[0]), queries[2]) == answers[2]


def test_an_unset_seed_is_random_and_told(engine, context):
    warm = dataclasses.replace(WARM, seed=None)
    one, two = (ask(engine, context, sampling=warm) for _ in range(2))
    assert one.tokens != two.tokens and one.seed != two.seed
    assert isinstance(one.seed, int) and 0 <= one.seed < 2**64
    assert ask(engine, context, sampling=dataclasses.replace(WARM, seed=one.seed)) == one
    several = ask(engine, context, sampling=warm, samples=3)
    assert len({a.seed for a in several}) == 1 < len({tuple(a.tokens) for a in several})
    again = dataclasses.replace(WARM, seed=several[0].seed)
    assert ask(engine, context, sampling=again, samples=3) == several
    assert ask(engine, context, sampling=None).seed is None
    assert ask(engine, context, sampling={"temperature": 0, "seed": 5}).seed is None
    # A seed says how an answer came about, not what it is.
    assert dataclasses.replace(one, seed=None) == one


def test_samples_of_one_prompt_are_distributed_as_the_model_says(engine, context):
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 12, "top_p": 0.9}
    drawn = {**options, "seed": 3}
    answers = ask(engine, context, max_new_tokens=1, samples=MANY, sampling=drawn)
    scores = np.asarray(engine.score(context, QUERY))[-1]
    expected = test_sampling.probabilities(scores, [], **options)
    counts = np.bincount([a.tokens[0] for a in answers], minlength=len(expected))
    assert not counts[expected == 0].any()
    kept = expected * MANY >= 5
    assert kept.sum() >= 4
    observed = np.append(counts[kept], counts[~kept].sum())
    hoped = np.append(expected[kept], expected[~kept].sum()) * MANY
    observed, hoped = observed[hoped > 0], hoped[hoped > 0]
    assert scipy.stats.chisquare(observed, hoped).pvalue > 1e-3
    for answer in answers[:20]:
        want = scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()
        assert abs(answer.logprobs[0] - want[answer.tokens[0]]) < 1e-4


def test_greedy_is_the_default_and_says_how_likely_it_was(engine, context):
    answer = engine.generate(context, QUERY, max_new_tokens=8, ignore_eos=True)
    assert answer == ask(engine, context, max_new_tokens=8, sampling=Sampling(temperature=0))
    scores = np.asarray(engine.score(context, QUERY + answer.tokens))[len(QUERY) - 1 : -1]
    assert answer.tokens == scores.argmax(-1).tolist()
    best = scores.max(-1) - np.log(np.exp(scores).sum(-1))
    chex.assert_trees_all_close(np.asarray(answer.logprobs), best, atol=1e-4, rtol=1e-7)


@pytest.mark.parametrize("at", [0, 3, 38])
def test_a_stream_is_the_text_also_with_stop_words(engine, context, at):
    tokens = ask(engine, context).tokens
    word = f"{tokens[at]}><"
    answer = ask(engine, context, stop=["never", word])
    assert answer.stop_reason == "stop"
    pieces = engine.stream(
        context, QUERY, max_new_tokens=NEW, sampling=WARM, ignore_eos=True, stop=["never", word]
    )
    assert "".join(pieces) == answer.text


def test_a_stream_comes_as_it_is_made(engine, context, monkeypatch):
    """Its first piece is there before the last token is, and input is checked at the call."""
    made = []
    extend = stopping.Row.extend

    def note(row, tokens, logprobs):
        made.append(len(tokens))
        extend(row, tokens, logprobs)

    monkeypatch.setattr(stopping.Row, "extend", note)
    pieces = engine.stream(context, QUERY, max_new_tokens=NEW, ignore_eos=True)
    next(pieces)
    assert sum(made) == 1
    list(pieces)
    assert sum(made) == NEW


def test_bad_input_is_named(engine, context):
    batch = engine.prefill([tiny.ids(60), tiny.ids(100)])
    silent = Engine(engine.model, mesh=engine.mesh, attention=engine.attention)
    for message, call in {
        "temperature=-1": lambda: ask(engine, context, sampling={"temperature": -1}),
        "unknown": lambda: ask(engine, context, sampling={"beams": 4}),
        "samples=0": lambda: ask(engine, context, samples=0),
        "2 seeds for 1": lambda: ask(engine, context, sampling=Sampling(seed=(1, 2))),
        "not a batch": lambda: engine.stream(batch, QUERY, max_new_tokens=1),
        "no tokenizer": lambda: silent.stream(context, QUERY, max_new_tokens=1),
        "max_new_tokens=0": lambda: engine.stream(context, QUERY, max_new_tokens=0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
