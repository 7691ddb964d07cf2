"""Teacher-forced: the logits of a query's tokens, and how likely a query or a document is."""

import dataclasses

import numpy as np

from star_jax import mesh as mesh_lib
from star_jax.cache import bucket, pad
from star_jax.context import Encoded
from star_jax.generate import check_finite
from star_jax.inputs import question
from star_jax.models import Decoder
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
    model: Decoder, context: Encoded, queries: list[list[int]], *, programs: Programs
) -> list[np.ndarray]:
    """The logits after each token of each row's query: float32 [Lq, V]."""
    found = [np.empty((len(ids), model.config.vocab_size), np.float32) for ids in queries]
    put = mesh_lib.putter(context.mesh)
    for group in context.groups:
        asked, mine = group.of(queries), group.of(found)
        hidden = programs.hidden(model, group.cache, question(group, asked))
        for first in range(0, max(map(len, asked)), LOGITS_AT_ONCE):
            part = np.asarray(programs.logits(model, hidden, put(np.int32(first), mesh_lib.WHOLE)))
            for one, logits in zip(mine, part, strict=False):
                count = len(one[first : first + LOGITS_AT_ONCE])
                check_finite(logits[:count], hidden.dtype)
                one[first : first + count] = logits[:count]
    return found


def likelihood_of(
    model: Decoder, context: Encoded, queries: list[list[int]], *, programs: Programs
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
    model: Decoder, document: Encoded, *, window: int, programs: Programs
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
    model: Decoder,
    context: Encoded,
    asked: list[list[int]],
    following: list[list[int]],
    programs: Programs,
) -> list[np.ndarray]:
    """Of each token of `following`, the one after each that is asked."""
    found = [np.empty(0, np.float32)] * len(asked)
    for group in context.groups:
        mine, targets = group.of(asked), group.of(following)
        if not any(mine):  # documents that have ended, beside one that has not
            continue
        targets += [[]] * (group.batch - len(targets))
        made = programs.likelihood(
            model,
            group.cache,
            question(group, mine),
            mesh_lib.putter(context.mesh)(
                pad(targets, bucket(max(map(len, mine)))), mesh_lib.QUERY
            ),
        )
        for row, ids, values in zip(group.rows, mine, np.asarray(made), strict=False):
            found[row] = values[: len(ids)]
            check_finite(found[row], group.cache.kv.k[0].dtype)
    return found
