"""The metrics that `data.metric` names, for the users' own questions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_jax.eval import text_metrics
from star_jax.eval.lists import check_known
from star_jax.printable import printable
from star_jax.runs.metrics import MATCH_ALL, MATCH_PART, Metric, postprocess
from star_jax.runs.sample import Sample


def _of_text(name: str, score: Callable[[str, Sequence[str]], float]) -> Metric:
    return Metric(name, lambda pred, sample: score(postprocess(pred), sample.outputs))


def _no_score(pred: str, sample: Sample) -> float:
    raise ValueError("perplexity is not a score of what was generated")


METRICS: dict[str, Metric] = {
    "match_all": MATCH_ALL,
    "match_part": MATCH_PART,
    "exact_match": _of_text("exact_match", text_metrics.exact_match),
    "f1": _of_text("f1", text_metrics.f1),
    "rouge": _of_text("rougeLsum", text_metrics.rouge),
    "perplexity": Metric("perplexity", _no_score, is_forced=True),
}


def check(name: str) -> None:
    """Refuses a name that is unknown, or one that needs a package that is missing.

    Raises:
      ValueError: says what there is, or how to install it.
    """
    if name:
        check_known("data.metric", name, tuple(METRICS))
    if name == "rouge":
        text_metrics.check_rouge()


def named(name: str) -> Metric:
    """The metric of a name; without one, that all references occur."""
    return METRICS[name] if name else MATCH_ALL


def paragraph(summary: Sequence[Mapping[str, Any]]) -> str:
    """What stands below a report's table: which metric is which task's."""
    tasks: dict[str, dict[str, None]] = {}
    for one in summary:
        if one["metric"] is not None:
            tasks.setdefault(one["metric"], {})[printable(one["task"])] = None
    if len(tasks) < 2:
        return "".join(f"\n\nMetric: {name}." for name in tasks)
    lists = [f"{name} of {', '.join(of)}" for name, of in tasks.items()]
    return f"\n\nMetrics: {'; '.join(lists)}."
