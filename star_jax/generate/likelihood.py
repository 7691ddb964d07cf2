"""Teacher-forced: the logits of a query's tokens, and how likely a query or a document is."""

import dataclasses

import jax
import numpy as np

from star_jax.cache.context import Encoded
from star_jax.cache.sharded import pad
from star_jax.generate.compiled import LOGITS_AT_ONCE, Programs
from star_jax.generate.inputs import question, slots
from star_jax.generate.run import check_finite
from star_jax.models import Decoder
from star_jax.runtime import mesh as mesh_lib


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
    model: Decoder,
    context: Encoded,
    of_rows: list[list[list[int]]],
    *,
    last: int | None,
    programs: Programs,
) -> list[np.ndarray]:
    """The logits after each token of each query, or its `last`: float32 [L, V]; queries by row."""
    vocab_size = model.config.vocab_size
    most = max(len(ids) for row in of_rows for ids in row) if last is None else last
    found = [
        [np.empty((min(most, len(ids)), vocab_size), np.float32) for ids in row] for row in of_rows
    ]
    put = mesh_lib.put_on(context.mesh)
    for group in context.groups:
        asked = group.of(of_rows)
        nothing: list[int] = []
        ends = list(map(len, slots(group, asked, nothing)))
        mine = slots(group, group.of(found), np.empty((0, vocab_size), np.float32))
        begins = [end - len(one) for end, one in zip(ends, mine, strict=True)]  # what counts
        hidden = programs.hidden(model, group.cache, question(group, asked))
        for first in range(0, max(ends), LOGITS_AT_ONCE):
            after = first + LOGITS_AT_ONCE
            if all(after <= begin or end <= first for begin, end in zip(begins, ends, strict=True)):
                continue
            part = mesh_lib.fetch(
                programs.logits(model, hidden, put(np.int32(first), mesh_lib.WHOLE))
            )
            for one, begin, end, logits in zip(mine, begins, ends, part, strict=True):
                start, stop = max(first, begin), min(after, end)
                if start < stop:
                    kept = logits[start - first : stop - first]
                    check_finite(kept, hidden.dtype)
                    one[start - begin : stop - begin] = kept
    return [one for row in found for one in row]


def likelihood_of(
    model: Decoder, context: Encoded, of_rows: list[list[list[int]]], *, programs: Programs
) -> list[Scores]:
    """How likely each query is, by row; the context says nothing of its first token.

    Raises:
      ValueError: a query has one token only.
    """
    if min(len(ids) for row in of_rows for ids in row) < 2:
        raise ValueError("a query of one token has nothing to score")
    asked = [[ids[:-1] for ids in row] for row in of_rows]
    following = [[ids[1:] for ids in row] for row in of_rows]
    found = _logprobs(model, context, asked, following, programs)
    return [Scores(one) for row in found for one in row]


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
        asked, following = [[p[:-1]] for p in parts], [[p[1:]] for p in parts]
        before = document.cut(start)
        values = _logprobs(model, before, asked, following, programs)
        for one, (new,) in zip(found, values, strict=True):
            one.append(new)
    return [Scores(np.concatenate(one)) for one in found]


def _logprobs(
    model: Decoder,
    context: Encoded,
    asked: list[list[list[int]]],
    following: list[list[list[int]]],
    programs: Programs,
) -> list[list[np.ndarray]]:
    """The log-probability of each token of `following`, the one after each that is asked."""
    found = [[np.empty(len(ids), np.float32) for ids in row] for row in asked]
    put = mesh_lib.put_on(context.mesh)
    for group in context.groups:
        mine = group.of(asked)
        if not any(ids for row in mine for ids in row):  # documents that have ended, beside others
            continue
        nothing: list[int] = []
        targets = slots(group, group.of(following), nothing)
        asking = question(group, mine)
        tokens = put(pad(targets, asking.tokens.shape[1]), mesh_lib.QUERY)
        made = mesh_lib.fetch(programs.likelihood(model, group.cache, asking, tokens))
        kept = slots(group, group.of(found), np.empty(0, np.float32))
        for one, values in zip(kept, made, strict=True):
            one[:] = values[: len(one)]
            check_finite(one, jax.tree.leaves(model)[0].dtype)
    return found
