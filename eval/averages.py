"""RULER's overall score: the mean of its thirteen tasks, and only of all thirteen."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.eval import ruler


def of_ruler(summary: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One dictionary per row and length that has any of the tasks, in the order of the summary.

    Keys: row, length, n_tasks, and mean: None unless all thirteen are there, each as large as the
    others and with all its questions scored. A task with a substitute's name is none of them, nor
    is one that was scored by another metric than RULER's.
    """
    found: dict[tuple[str, int | None], dict[str, Mapping[str, Any]]] = {}
    for one in summary:
        if _is_rulers(one["task"], one.get("metric")):
            found.setdefault((one["row"], one["length"]), {})[one["task"]] = one
    return [
        {"row": row, "length": length, "n_tasks": len(tasks), "mean": _mean(list(tasks.values()))}
        for (row, length), tasks in found.items()
    ]


def paragraph(summary: Sequence[Mapping[str, Any]]) -> str:
    """What stands below a report's table: the means, or of how many tasks there could be none."""
    found = of_ruler(summary)
    lines: dict[str, list[str]] = {}
    for one in found:
        where = f"{one['row']} @ {one['length'] or 'all'}"
        if one["mean"] is None:
            what = f"RULER, {one['n_tasks']}/{len(ruler.NAMES)} tasks, so no average"
            if one["n_tasks"] == len(ruler.NAMES):
                what = "RULER, tasks of different numbers of scored questions, so no average"
            lines.setdefault(what, []).append(where)
        else:
            what = f"RULER, mean of {len(ruler.NAMES)} tasks"
            lines.setdefault(what, []).append(f"{where} {one['mean']:.2f}")
    return "".join(f"\n\n{what}: {', '.join(where)}." for what, where in lines.items())


def _is_rulers(task: str, metric: str | None) -> bool:
    """Whether it is a task of RULER's with its metric, as far as that is known."""
    if task not in ruler.NAMES or metric is None:
        return task in ruler.NAMES
    return metric in {mode.tasks[task].metric.name for mode in ruler.MODES.values()}


def _mean(tasks: Sequence[Mapping[str, Any]]) -> float | None:
    scores = [one["score"] for one in tasks]
    is_whole = not any("no reference answer" in one["notes"] for one in tasks)
    if (
        len(tasks) < len(ruler.NAMES)
        or None in scores
        or len({one["n"] for one in tasks}) > 1
        or not is_whole
    ):
        return None
    return round(statistics.fmean(scores), 2)
