"""Several questions to a context, asked together: as each alone, and its keys in memory once."""

from typing import Any

import jax
import numpy as np
import pytest
import test_meshes
import tiny
from further import further
from test_meshes import FIELDS, NEW, directory, engine, ids  # noqa: F401

import star_jax
from star_jax import Engine, Star
from star_jax.generate import compiled, sampling
from star_jax.generate.inputs import ask, question
from star_jax.prefill import waves

LENGTH = 200
QUESTIONS = [ids(n, seed=n) for n in (9, 1, 15, 3, 12)]  # with a token more, of one bucket
MESH = (2, 2, 2)


@pytest.mark.parametrize("kind", ["star", pytest.param("ring", marks=pytest.mark.long)])
def test_five_questions_equal_five_single_runs(kind, directory):  # noqa: F811
    e = engine(directory, MESH, kind)
    context = e.prefill(ids(LENGTH))
    answers = e.generate(context, QUESTIONS, max_new_tokens=NEW)
    scores = e.score(context, QUESTIONS)
    likely = e.likelihood(context, [[*one, 5] for one in QUESTIONS])
    assert len(answers) == len(scores) == len(likely) == 5
    for one, answer, score, scored in zip(QUESTIONS, answers, scores, likely, strict=True):
        assert answer == e.generate(context, one, max_new_tokens=NEW)
        assert tiny.difference(score, e.score(context, one)) < 1e-5
        alone = e.likelihood(context, [*one, 5]).logprobs
        assert tiny.difference(scored.logprobs, alone) < 1e-5


@pytest.mark.long
def test_a_batch_of_contexts_with_different_numbers_of_questions(directory):  # noqa: F811
    e = engine(directory, MESH, "star")
    contexts = [ids(n) for n in (200, 60, 250)]
    asked = [QUESTIONS[:2], QUESTIONS[2:3], QUESTIONS[2:]]
    draws = sampling.Sampling(temperature=2.0, seed=5)
    how = {"max_new_tokens": NEW, "sampling": draws, "ignore_eos": True}
    batch = e.prefill(contexts)
    found = e.generate(batch, asked, samples=3, **how)
    scores = e.score(batch, asked)
    assert [len(row) for row in found] == [len(row) for row in scores] == [2, 1, 3]
    for tokens, queries, answers, logits in zip(contexts, asked, found, scores, strict=True):
        context = e.prefill(tokens)
        for one, several, score in zip(queries, answers, logits, strict=True):
            assert several == e.generate(context, one, samples=3, **how)
            assert tiny.difference(score, e.score(context, one)) < 1e-5


def test_a_question_runs_no_prefill(directory, monkeypatch):  # noqa: F811
    e = engine(directory, MESH, "star")
    context = e.prefill(ids(LENGTH))

    def encodes(*args, **kwargs):
        raise AssertionError("a context is encoded")

    monkeypatch.setattr(waves, "programs", encodes)
    with pytest.raises(AssertionError):
        e.prefill(ids(LENGTH))
    assert e.generate(context, QUESTIONS[0], max_new_tokens=NEW).tokens


@pytest.mark.parametrize("kind", ["star", *further("dense")])
def test_an_empty_query_asks_the_last_token_of_the_context(kind, directory):  # noqa: F811
    e = engine(directory, (1, 4, 2), kind)
    tokens = ids(LENGTH)
    context = e.prefill(tokens)
    expected = e.generate(context.prefix(LENGTH - 1), tokens[-1:], max_new_tokens=NEW)
    assert e.generate(context, [], max_new_tokens=NEW) == expected
    if kind == "dense":  # as one forward
        whole = test_meshes.whole(directory)
        greedy, gaps = tiny.literal_generate(whole, tokens[:-1], tokens[-1:], LENGTH, 0, NEW)
        sure = next((i for i, gap in enumerate(gaps) if gap < 1e-3), NEW)
        assert sure and expected.tokens[:sure] == greedy[:sure]
        return
    beside = e.generate(context, [QUESTIONS[0], [], QUESTIONS[1]], max_new_tokens=NEW)
    assert beside[1] == expected
    assert beside[0] == e.generate(context, QUESTIONS[0], max_new_tokens=NEW)
    assert e.generate(e.prefill([7]), [], max_new_tokens=2).tokens  # nothing is before it


def test_the_keys_of_a_context_are_there_once():
    """Asking 16 questions takes as much of the cache as one does, before and while they run.

    Wide heads, and few of them: the scores of all questions are small beside the keys of one.
    """
    model = tiny.model(num_attention_heads=2, num_key_value_heads=2, head_dim=128)
    e = Engine(model, mesh=star_jax.make_mesh(context=8), attention=Star(block_size=512))
    context = e.prefill(tiny.ids(4000))
    group = context.groups[0]
    cache_bytes = sum(x.nbytes for x in jax.tree.leaves(group.cache.layers)) // 8  # a device's
    programs = compiled.programs(e.runtime, sampling.GREEDY.mode)

    def temporary(count):
        questions = ask(context, [[1, 2, 3]] * count, vocab_size=e.config.vocab_size)
        asking = question(group, questions.of_rows)
        compiled = programs.hidden.lower(e.model, group.cache, asking).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.argument_size_in_bytes, analysis.temp_size_in_bytes

    (one_in, one_temp), (many_in, many_temp) = temporary(1), temporary(16)
    assert many_in - one_in < cache_bytes // 100
    copies = 16 * cache_bytes // 2  # of one layer
    assert many_temp - one_temp < copies / 2, (one_temp, many_temp, copies)


def test_bad_questions_are_named(directory):  # noqa: F811
    e = engine(directory, MESH, "star")
    context, batch = e.prefill(ids(40)), e.prefill([ids(40), ids(50)])
    for message, call in {
        "query is empty": lambda: e.score(context, []),
        "query 1 is empty": lambda: e.score(context, [[1], []]),
        "1 lists of queries for 2 contexts": lambda: e.score(batch, [[[1], [2]]]),
        "queries of context 1 must be a list": lambda: e.score(batch, [[[1]], [2]]),
        "queries of context 1: 0 has token ids": lambda: e.score(batch, [[[1]], [[10**6]]]),
        "at most 4096 at once": lambda: e.score(context, [[1]] * 5000),
        "2 seeds for 3 questions": lambda: e.generate(
            context, [[1]] * 3, max_new_tokens=1, sampling={"seed": (1, 2)}
        ),
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    assert np.shape(e.score(context, np.ones((2, 3), int))[1]) == (3, FIELDS["vocab_size"])
    assert isinstance(e.attention, Star)
