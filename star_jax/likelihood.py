"""How likely a document is, token by token: encoded once, then asked window after window."""

import dataclasses

import numpy as np
from jax.stages import Wrapped

from star_jax import mesh as mesh_lib
from star_jax.cache import bucket, pad
from star_jax.context import Context
from star_jax.models.llama import Llama


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """The log-probability of each token of a document after its first: float32 [L - 1]."""

    logprobs: np.ndarray

    def __repr__(self) -> str:
        return f"Scores({len(self.logprobs)} tokens, perplexity {self.perplexity:.6g})"

    @property
    def perplexity(self) -> float:
        return float(np.exp(-np.mean(self.logprobs, dtype=np.float64)))


def score_document(
    model: Llama, document: Context, *, window: int, program: Wrapped
) -> list[Scores]:
    """Scores every row of an encoded batch; `program` is `query.Programs.likelihood`.

    Each window of tokens is asked, as a query, of the part of the document before it.

    Raises:
      ValueError: a row has one token only.
    """
    rows = document.tokens + [[]] * (document.batch - len(document.tokens))
    if min(map(len, document.tokens)) < 2:
        raise ValueError("a document of one token has nothing to score")
    window = min(window, max(map(len, rows)) - 1)
    put = mesh_lib.putter(document.mesh)
    found: list[list[np.ndarray]] = [[] for _ in document.tokens]
    for start in range(0, max(map(len, rows)) - 1, window):
        parts = [row[start : start + window + 1] for row in rows]
        tokens = pad([part[:-1] for part in parts], bucket(window))
        following = pad([part[1:] for part in parts], bucket(window))
        starts = np.full(len(rows), start, np.int32)
        before = document.cut(start).cache
        logprobs = np.asarray(
            program(
                model,
                before,
                put(tokens, mesh_lib.QUERY),
                put(following, mesh_lib.QUERY),
                put(starts),
            )
        )
        for one, part, values in zip(found, parts, logprobs, strict=False):
            one.append(values[: max(len(part) - 1, 0)])
    return [Scores(np.concatenate(one)) for one in found]
