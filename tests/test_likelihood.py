"""Documents scored in windows: exact attention as transformers has it, Star as the literal one."""

from typing import Any

import chex
import llamas
import numpy as np
import pytest
import tiny
import torch

import star_jax
from star_jax import Dense, Engine, Ring, Star
from star_jax.generate import compiled

FIELDS = llamas.VARIANTS["llama-3.1"]
LENGTH, BLOCK = 150, 32


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    directory = llamas.write(tmp_path_factory.mktemp("checkpoint"), llamas.build(FIELDS), FIELDS)
    mesh = star_jax.make_mesh(data=2, context=2)
    return Engine.from_pretrained(directory, mesh=mesh, attention=Dense(), dtype="float32")


def ids(length, seed=0):
    return tiny.ids(length, seed, FIELDS["vocab_size"])


def logprobs(logits, tokens):
    """The log-probability of each token, by the logits before it."""
    each = torch.log_softmax(torch.from_numpy(np.asarray(logits, np.float64)), dim=-1)
    return each[np.arange(len(tokens)), tokens].numpy()


@pytest.mark.parametrize("attention", [Dense(), Ring()])
def test_exact_attention_gives_the_likelihood_of_one_forward(engine, attention):
    document = ids(LENGTH)
    expected = logprobs(
        llamas.their_logits(llamas.build(FIELDS), np.asarray([document]))[0, :-1], document[1:]
    )
    e = engine.with_attention(attention)
    for window in (64, 200):
        scores = e.score_document(document, window=window)  # a window of 200 is as long as it
        chex.assert_shape(scores.logprobs, (LENGTH - 1,))
        assert tiny.difference(scores.logprobs, expected) < 1e-4
        assert abs(scores.perplexity - np.exp(-expected.mean())) < 1e-2


def test_star_asks_each_window_of_the_blocks_before_it(engine):
    document, window = ids(LENGTH), 64
    e = engine.with_attention(Star(block_size=BLOCK))
    expected = []
    for start in range(0, LENGTH - 1, window):
        part = document[start : start + window]
        if start:
            logits = tiny.literal_score(e.model, document[:start], part, BLOCK, BLOCK)[0]
        else:
            logits = tiny.forward(e.model, part, range(len(part)))[0]
        following = document[start + 1 : start + window + 1]
        expected.append(logprobs(logits[: len(following)], following))
    scores = e.score_document(document, window=window)
    assert tiny.difference(scores.logprobs, np.concatenate(expected)) < 1e-4
    assert tiny.difference(scores.logprobs, engine.score_document(document).logprobs) > 1e-3


def test_a_batch_of_documents_of_different_lengths(engine):
    e = engine.with_attention(Star(block_size=BLOCK))
    documents = [ids(LENGTH), ids(64), ids(65)]
    batch = e.score_document(documents, window=64)
    for document, scores in zip(documents, batch, strict=True):
        single = e.score_document(document, window=64)
        assert tiny.difference(scores.logprobs, single.logprobs) < 1e-5


def test_a_document_that_has_ended_costs_nothing_more(engine, monkeypatch):
    """Two of the three rows have one window; the long one beside them has sixteen."""
    calls: list[int] = []
    programs = compiled.programs

    def noted(*args):
        found = programs(*args)

        def likelihood(model, cache, question, following):
            calls.append(question.tokens.shape[0])
            return found.likelihood(model, cache, question, following)

        counted: Any = likelihood
        return found._replace(likelihood=counted)

    monkeypatch.setattr(compiled, "programs", noted)
    documents = [ids(60), ids(1025), ids(64)]
    e = engine.with_attention(Star(block_size=BLOCK))
    batch = e.score_document(documents, window=64)
    assert [len(scores.logprobs) for scores in batch] == [59, 1024, 63]
    assert len(calls) == 16 + 1


def test_bad_input_is_named(engine):
    with pytest.raises(ValueError, match="one token"):
        engine.score_document([3])
    with pytest.raises(ValueError, match="window=0"):
        engine.score_document(ids(9), window=0)
