"""Asking one batch of questions, and what is written down of it."""

from collections.abc import Callable, Sequence
from typing import Any

from star_jax.engine import Engine
from star_jax.eval import metrics, timing
from star_jax.eval.sample import Sample
from star_jax.kinds import Kind
from star_jax.sampling import Sampling
from star_jax.stopping import Answer


def ask(
    engine: Engine,
    contexts: Sequence[list[int]],
    queries: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    ignore_eos: bool = False,
    sampling: Sampling | None = None,
    begin: Callable[[str], None] = lambda doing: None,
) -> tuple[list[Answer], dict[str, float]]:
    """Answers a batch of questions, given as token ids; `begin` is told what is going on.

    Returns:
      The answers; and seconds, the batch's shared out evenly among its questions, so that
      they add up: of phase 1, of phase 2, and of compiling, which neither contains.
    """
    begin(f"encoding {sum(map(len, contexts))} tokens")
    with timing.Stopwatch() as prefill:
        context = engine.prefill(list(contexts)).block_until_ready()
    begin(f"answering {len(queries)} question{'s' * (len(queries) > 1)}")
    with timing.Stopwatch() as decode:
        answers = engine.generate(
            context,
            list(queries),
            max_new_tokens=max_new_tokens,
            stop=stop,
            ignore_eos=ignore_eos,
            sampling=sampling,
        )
    assert isinstance(answers, list)  # since `contexts` is a batch
    seconds = {
        "time_prefill": prefill.seconds,
        "time_decode": decode.seconds,
        "time_compile": prefill.compile_seconds + decode.compile_seconds,
    }
    return answers, {name: round(value / len(answers), 6) for name, value in seconds.items()}


def record(
    sample: Sample,
    answer: Answer,
    *,
    metric: Callable[[str, Sequence[str]], float],
    n_context_tokens: int,
    n_query_tokens: int,
) -> dict[str, Any]:
    """What is written down of an answer: the reference's fields, the score, counts, the seed."""
    pred = (answer.text or "").strip()
    scored = metric(metrics.postprocess(pred), sample.outputs) if sample.outputs else None
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
        "n_context_tokens": n_context_tokens,
        "n_query_tokens": n_query_tokens,
        "n_generated": len(answer.tokens),
        "stop_reason": answer.stop_reason,
        **({} if answer.seed is None else {"seed": answer.seed}),
    }


def is_cut(span: tuple[int, int] | None, attention: Kind) -> bool | None:
    """Whether a block edge cuts a stretch of tokens; None without a stretch or without blocks."""
    block = attention.sizes.get("block_size")
    if span is None or block is None:
        return None
    return span[0] // block != (span[1] - 1) // block
