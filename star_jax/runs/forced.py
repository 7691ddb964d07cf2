"""Measures how likely reference answers are: nothing is generated."""

from collections.abc import Callable, Sequence
from typing import Any

from star_jax.engine import Engine
from star_jax.generate.likelihood import Scores
from star_jax.generate.stopping import Answer
from star_jax.runs.ask import Held, each_context, record
from star_jax.runs.metrics import Metric
from star_jax.runs.sample import Sample


def reference(sample: Sample) -> str:
    """The first reference answer, as it goes on from the query.

    A space comes between the two where neither has one: an answer would begin with it.

    Raises:
      ValueError: there is none.
    """
    if not sample.outputs:
        raise ValueError(f"index={sample.index} has no reference answer to measure")
    first = sample.outputs[0]
    return first if sample.query[-1:].isspace() or first[:1].isspace() else f" {first}"


def measure(
    engine: Engine,
    samples: Sequence[Sample],
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    *,
    held: Held,
    begin: Callable[[str], None] = lambda doing: None,
) -> tuple[list[list[float]], dict[str, float]]:
    """The log-probability of each token of each reference, after context and query.

    A reference has the tokens of a text that goes on after the query, as an answer has.

    Returns:
      These; and seconds, as `ask` has them.
    """
    references = [
        engine.tokenizer.encode_query(reference(sample), after=sample.query) for sample in samples
    ]

    def answer(context: Any, rows: list[list[int]]) -> list[list[Scores]]:
        return engine.likelihood(
            context, [[[*queries[i], *references[i]] for i in r] for r in rows]
        )

    scores, seconds = each_context(engine, contexts, queries, answer, held=held, begin=begin)
    found = [
        [float(value) for value in score.logprobs[len(score.logprobs) - len(ids) :]]
        for score, ids in zip(scores, references, strict=True)
    ]
    return found, seconds


def measured(
    sample: Sample,
    logprobs: Sequence[float],
    *,
    metric: Metric,
    n_context_tokens: int,
    n_query_tokens: int,
) -> dict[str, Any]:
    """What is written down of it: what `record` writes, and the reference's log-probability."""
    counts = {"n_context_tokens": n_context_tokens, "n_query_tokens": n_query_tokens}
    return {
        **record(sample, Answer([], "", None), metric=metric, **counts),
        "logprob": sum(logprobs) if logprobs else None,
        "n_scored": len(logprobs),
    }
