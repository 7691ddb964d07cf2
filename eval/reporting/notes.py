"""What one should know before reading much into a report."""

import csv
import os
from collections.abc import Sequence

from star_jax.eval.reporting import paired
from star_jax.eval.reporting.answers import Run
from star_jax.eval.reporting.tables import length_name
from star_jax.printable import printable

HOW = (
    "Scores are in points of 100. The interval of a task's score is Wilson's; where scores have "
    "fractions, and of means over tasks, it is Clopper and Pearson's, which is wider. A mean over "
    "tasks is worth (sum of w)² / (sum of w²) answers, where w is the weight of each.",
    "Paired differences are over the same questions, each task counting alike. Their interval is a "
    f"percentile bootstrap with {paired.RESAMPLES} resamples within tasks, and a fixed seed. Where "
    f"fewer than {paired.FEWEST} questions differ, or a task has fewer, it would be too narrow, "
    "and of no width at all where all differ alike: there the interval is Newcombe's for one task, "
    "and for several one made of Clopper and Pearson's.",
)


def notes(runs: Sequence[Run]) -> list[str]:
    """What the runs' own summaries note, and what is not finished."""
    found: list[str] = []
    for run in runs:
        prefix = "" if len(runs) == 1 else f"{run.name}: "
        found += [f"{prefix}{line}" for line in (*_of_summary(run), *_unfinished(run))]
    return found or ["The runs' own summaries note nothing."]


def _of_summary(run: Run) -> list[str]:
    """Each note once, with the rows, tasks and lengths that it is about."""
    about: dict[str, list[dict[str, str]]] = {}
    path = os.path.join(run.directory, "summary.csv")
    if not os.path.isfile(path):
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                for note in filter(None, (line.get("notes") or "").split("; ")):
                    about.setdefault(note, []).append(line)
    except (ValueError, csv.Error) as e:
        raise ValueError(f"{path}: not a run's summary ({printable(str(e))})") from e
    return [
        f"{_names(ones, 'row')}; {_names(ones, 'task')} @ {_names(ones, 'length')}: {note}"
        for note, ones in about.items()
    ]


def _names(ones: Sequence[dict[str, str]], field: str) -> str:
    return ", ".join(dict.fromkeys(one.get(field) or "all" for one in ones))


def _unfinished(run: Run) -> list[str]:
    return [
        f"{cell.name}, {cell.task} @ {length_name(cell.length)}: "
        f"{len(cell.answers)} of {cell.samples} answers"
        for cell in run.cells
        if len(cell.answers) < cell.samples
    ]
