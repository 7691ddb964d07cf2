"""Asks one batch of questions, and what is written down of it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from star_jax.cache.context import ContextBatch
from star_jax.engine import Engine
from star_jax.generate.sampling import Sampling
from star_jax.generate.stopping import Answer
from star_jax.prefill.kinds import Kind
from star_jax.runs import timing
from star_jax.runs.metrics import Metric
from star_jax.runs.sample import Sample


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
    if engine.attention.asking(queries[0]) is not None:
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop}
        options |= {"ignore_eos": ignore_eos, "sampling": sampling, "begin": begin}
        return _ask_each(engine, contexts, queries, held=held, **options)
    places: dict[tuple[int, ...], list[int]] = {}
    for i, ids in enumerate(contexts):
        places.setdefault(tuple(ids), []).append(i)
    order = [i for row in places.values() for i in row]  # context after context
    if sampling is not None and isinstance(sampling.seed, tuple):
        seeds = tuple(sampling.seed[i] for i in order)
        sampling = dataclasses.replace(sampling, seed=seeds)
    begin(f"encoding {sum(map(len, places))} tokens")
    with timing.Stopwatch() as prefill:
        context = held.encode(engine, [list(ids) for ids in places])
    begin(f"answering {len(queries)} question{'s' * (len(queries) > 1)}")
    with timing.Stopwatch() as decode:
        nested = engine.generate(
            context,
            [[queries[i] for i in row] for row in places.values()],
            max_new_tokens=max_new_tokens,
            stop=stop,
            ignore_eos=ignore_eos,
            sampling=sampling,
        )
    found = dict(zip(order, (answer for row in nested for answer in row), strict=True))
    answers = [found[i] for i in range(len(order))]
    seconds = {
        "time_prefill": prefill.seconds,
        "time_decode": decode.seconds,
        "time_compile": prefill.compile_seconds + decode.compile_seconds,
    }
    return answers, {name: round(value / len(answers), 6) for name, value in seconds.items()}


def _ask_each(
    engine: Engine,
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    *,
    sampling: Sampling | None,
    **options: Any,
) -> tuple[list[Answer], dict[str, float]]:
    """As `ask`, each question of a context that is encoded for it alone."""
    answers, total = [], Counter[str]()
    for i, (context, query) in enumerate(zip(contexts, queries, strict=True)):
        mine = sampling
        if sampling is not None and isinstance(sampling.seed, tuple):
            mine = dataclasses.replace(sampling, seed=sampling.seed[i : i + 1])
        alone = engine.attention.asking(query)
        if alone is None:
            raise ValueError(f"{engine.attention!r} serves all questions with one context")
        asked = engine.with_attention(alone)
        found, seconds = ask(asked, [context], [query], sampling=mine, **options)
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
    scored = metric.score(pred, sample) if sample.outputs else None
    return {
        "index": sample.index,
        "pred": pred,
        "input_context": str(sample.context),
        "input_query": str(sample.query),
        "outputs": list(sample.outputs),
        "others": {},
        "truncation": -1,
        "length": -1 if sample.length is None else sample.length,
        "score": scored,
        "metric": metric.name,
        "n_context_tokens": n_context_tokens,
        "n_query_tokens": n_query_tokens,
        "n_generated": len(answer.tokens),
        "stop_reason": answer.stop_reason,
        **({} if answer.seed is None else {"seed": answer.seed}),
    }


def is_cut(spans: Sequence[tuple[int, int]], attention: Kind) -> bool | None:
    """Whether a block edge cuts any of the stretches of tokens; None without these, or blocks."""
    block = attention.sizes.get("block_size")
    if not spans or block is None:
        return None
    return any(start // block != (end - 1) // block for start, end in spans)
