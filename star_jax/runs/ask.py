"""Asks one batch of questions, and what is written down of it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from star_jax.cache.context import ContextBatch
from star_jax.engine import Engine
from star_jax.generate.sampling import Sampling
from star_jax.generate.stopping import Answer
from star_jax.prefill.kinds import Kind
from star_jax.runs import timing
from star_jax.runs.metrics import Metric
from star_jax.runs.sample import Sample

T = TypeVar("T")


class Held:
    """The contexts that were asked last: the next questions may be about the same ones."""

    def __init__(self) -> None:
        self._made: tuple[Engine, list[list[int]], ContextBatch] | None = None

    def encode(self, engine: Engine, contexts: list[list[int]]) -> ContextBatch:
        """Encodes the contexts, unless it has just done so with this engine."""
        if self._made is not None and self._made[0] is engine and self._made[1] == contexts:
            return self._made[2]
        self.let_go()  # before others take their place in memory
        self._made = engine, contexts, engine.prefill(contexts).block_until_ready()
        return self._made[2]

    def let_go(self) -> None:
        self._made = None


def ask(
    engine: Engine,
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    *,
    held: Held,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    sampling: Sampling | None = None,
    begin: Callable[[str], None] = lambda doing: None,
) -> tuple[list[Answer], dict[str, float]]:
    """Answers a batch of questions, given as token ids; `begin` is told what is going on.

    Questions of one context are asked together, and it is encoded once; not at all if it is held
    from the batch before. An anchor that reads the question makes each of them pay for a context.

    Returns:
      The answers; and seconds, the batch's shared out evenly among its questions, so that
      they add up: of phase 1, of phase 2, and of compiling, which neither contains.
    """

    def answer(context: ContextBatch, rows: list[list[int]]) -> list[list[Answer]]:
        drawn = sampling
        if drawn is not None and isinstance(drawn.seed, tuple):
            seeds = tuple(drawn.seed[i] for row in rows for i in row)
            drawn = dataclasses.replace(drawn, seed=seeds)
        return engine.generate(
            context,
            [[queries[i] for i in row] for row in rows],
            max_new_tokens=max_new_tokens,
            stop=stop,
            ignore_eos=ignore_eos,
            sampling=drawn,
        )

    return each_context(engine, contexts, queries, answer, held=held, begin=begin)


def each_context(
    engine: Engine,
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    answer: Callable[[ContextBatch, list[list[int]]], list[list[T]]],
    *,
    held: Held,
    begin: Callable[[str], None],
) -> tuple[list[T], dict[str, float]]:
    """Encodes each context once, and has the questions about it answered together.

    answer: takes the encoded contexts, and for each the positions of its questions.

    Returns:
      What it answers, in the order of the questions; and seconds, see `ask`.
    """
    if engine.attention.asking(queries[0]) is not None:
        return _each_question(engine, contexts, queries, answer, held=held, begin=begin)
    places: dict[tuple[int, ...], list[int]] = {}
    for i, ids in enumerate(contexts):
        places.setdefault(tuple(ids), []).append(i)
    rows = list(places.values())
    begin(f"encoding {sum(map(len, places))} tokens")
    with timing.Stopwatch() as prefill:
        context = held.encode(engine, [list(ids) for ids in places])
    begin(f"answering {len(contexts)} question{'s' * (len(contexts) > 1)}")
    with timing.Stopwatch() as decode:
        nested = answer(context, rows)
    order = [i for row in rows for i in row]  # context after context
    found = dict(zip(order, (one for row in nested for one in row), strict=True))
    seconds = {
        "time_prefill": prefill.seconds,
        "time_decode": decode.seconds,
        "time_compile": prefill.compile_seconds + decode.compile_seconds,
    }
    each = {name: round(value / len(order), 6) for name, value in seconds.items()}
    return [found[i] for i in range(len(order))], each


def _each_question(
    engine: Engine,
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    answer: Callable[[ContextBatch, list[list[int]]], list[list[T]]],
    **options: Any,
) -> tuple[list[T], dict[str, float]]:
    """As `each_context`, where each question is asked of a context that was encoded for it."""
    answers: list[T] = []
    total = Counter[str]()
    for i, (context, query) in enumerate(zip(contexts, queries, strict=True)):
        attention = engine.attention.asking(query)
        if attention is None:
            raise ValueError(f"{engine.attention!r} serves all questions with one context")

        def alone(encoded: ContextBatch, rows: list[list[int]], i: int = i) -> list[list[T]]:
            return answer(encoded, [[i]])

        engine_for_it = engine.with_attention(attention)
        found, seconds = each_context(engine_for_it, [context], [query], alone, **options)
        answers += found
        total.update(seconds)
    return answers, {name: round(value / len(answers), 6) for name, value in total.items()}


def record(
    sample: Sample,
    answer: Answer,
    *,
    metric: Metric,
    n_context_tokens: int,
    n_query_tokens: int,
) -> dict[str, Any]:
    """What is written down of an answer: the reference's fields, the score, counts, the seed."""
    pred = (answer.text or "").strip()
    is_scored = sample.outputs and not metric.is_forced
    return {
        "index": sample.index,
        "pred": pred,
        "input_context": str(sample.context),
        "input_query": str(sample.query),
        "outputs": list(sample.outputs),
        "others": {},
        "truncation": -1,
        "length": -1 if sample.length is None else sample.length,
        "score": metric.score(pred, sample) if is_scored else None,
        "metric": metric.name,
        "n_context_tokens": n_context_tokens,
        "n_query_tokens": n_query_tokens,
        "n_generated": len(answer.tokens),
        "stop_reason": answer.stop_reason,
        **({} if answer.seed is None else {"seed": answer.seed}),
        **sample.given,
    }


def is_cut(spans: Sequence[tuple[int, int]], attention: Kind) -> bool | None:
    """Whether a block edge cuts any of the stretches of tokens; None without these, or blocks."""
    block = attention.sizes.get("block_size")
    if not spans or block is None:
        return None
    return any(start // block != (end - 1) // block for start, end in spans)
