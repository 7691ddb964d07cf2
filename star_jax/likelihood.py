"""Teacher-forced: the logits of a query's tokens, and how likely a query or a document is."""

import dataclasses

import numpy as np

from star_jax import mesh as mesh_lib
from star_jax.cache import bucket, pad
from star_jax.context import Context
from star_jax.generate import check_finite
from star_jax.inputs import question
from star_jax.models.llama import Llama
from star_jax.query import LOGITS_AT_ONCE, Programs


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """The log-probability of each token of a text after its first: float32 [L - 1]."""

    logprobs: np.ndarray

    def __repr__(self) -> str:
        return f"Scores({len(self.logprobs)} tokens, perplexity {self.perplexity:.6g})"

    @property
    def perplexity(self) -> float:
        return float(np.exp(-np.mean(self.logprobs, dtype=np.float64)))


def score_queries(
    model: Llama, context: Context, queries: list[list[int]], *, programs: Programs
) -> list[np.ndarray]:
    """The logits after each token of each row's query: float32 [Lq, V]."""
    longest = max(map(len, queries))
    put = mesh_lib.putter(context.mesh)
    hidden = programs.hidden(model, context.cache, question(context, queries))
    found = [np.empty((len(ids), model.config.vocab_size), np.float32) for ids in queries]
    for first in range(0, longest, LOGITS_AT_ONCE):
        part = np.asarray(programs.logits(model, hidden, put(np.int32(first), mesh_lib.WHOLE)))
        for one, logits in zip(found, part, strict=False):
            end = max(min(first + LOGITS_AT_ONCE, len(one)), first)
            check_finite(logits[: end - first], hidden.dtype)
            one[first:end] = logits[: end - first]
    return found


def likelihood_of(
    model: Llama, context: Context, queries: list[list[int]], *, programs: Programs
) -> list[Scores]:
    """How likely each row's query is; the context says nothing of its first token.

    Raises:
      ValueError: a query has one token only.
    """
    if min(map(len, queries)) < 2:
        raise ValueError("a query of one token has nothing to score")
    asked = [ids[:-1] for ids in queries]
    return list(map(Scores, _logprobs(model, context, asked, [q[1:] for q in queries], programs)))


def score_document(
    model: Llama, document: Context, *, window: int, programs: Programs
) -> list[Scores]:
    """Scores every row of an encoded batch.

    Each window of tokens is asked, as a query, of the part of the document before it.

    Raises:
      ValueError: a row has one token only.
    """
    if min(map(len, document.tokens)) < 2:
        raise ValueError("a document of one token has nothing to score")
    longest = max(map(len, document.tokens)) - 1
    window = min(window, longest)
    found: list[list[np.ndarray]] = [[] for _ in document.tokens]
    for start in range(0, longest, window):
        parts = [row[start : start + window + 1] for row in document.tokens]
        asked, following = [p[:-1] for p in parts], [p[1:] for p in parts]
        before = document.cut(start)
        for one, values in zip(
            found, _logprobs(model, before, asked, following, programs), strict=True
        ):
            one.append(values)
    return [Scores(np.concatenate(one)) for one in found]


def _logprobs(
    model: Llama,
    context: Context,
    asked: list[list[int]],
    following: list[list[int]],
    programs: Programs,
) -> list[np.ndarray]:
    """Of each token of `following`, the one after each that is asked."""
    empty: list[list[int]] = [[]] * (context.batch - len(asked))
    put = mesh_lib.putter(context.mesh)
    targets = put(pad(following + empty, bucket(max(map(len, asked)))), mesh_lib.QUERY)
    made = np.asarray(programs.likelihood(model, context.cache, question(context, asked), targets))
    found = [values[: len(ids)] for values, ids in zip(made, asked, strict=False)]
    for values in found:
        check_finite(values, context.cache.kv.k[0].dtype)
    return found
