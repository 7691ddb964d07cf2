"""Published scores as data, to stand beside a run's own: files of CSV, each line with its source.

A figure stands beside a result only where checkpoint, suite, task, length and the way of attention
are the same. What else may differ (template, fitting, samples) is for the reader to weigh: a
figure says its template, and has a note where the source leaves something open.
"""

import csv
import dataclasses
import functools
import importlib.resources
import statistics
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MEAN, NIAH_MEAN = "mean", "niah mean"  # tasks of figures that are means over tasks

RULER_TASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3"),
    *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)
# Over which tasks the published means go.
MEANS: Mapping[tuple[str, str], frozenset[str]] = {
    ("ruler", MEAN): frozenset(RULER_TASKS),
    ("ruler", NIAH_MEAN): frozenset(RULER_TASKS[:8]),
    ("babilong", MEAN): frozenset(f"qa{i}" for i in range(1, 6)),
    ("infinitebench", MEAN): frozenset(
        (
            *("longbook_sum_eng", "longbook_qa_eng", "longbook_choice_eng", "longdialogue_qa_eng"),
            *("longbook_qa_chn", "code_debug", "math_find", "passkey", "number_string"),
            "kv_retrieval",
        )
    ),
}
_FILES = ("ruler", "ruler_ablations", "babilong", "infinitebench")
_HOW = ("block_size", "anchor_size", "content", "positions", "sinks", "window")
_CLOSE = 0.025  # "16K" is 16384 tokens in one suite's files and 16000 in another's
_EXACT = "exact"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published score, in points of 100.

    task: one of the suite's, `MEAN` or `NIAH_MEAN`. length: in tokens. kind: exact, or the name of
    a kind of attention, of which some have no implementation here. how: its sizes and all, as far
    as the source states them. template: the prompts'; empty: not stated.
    """

    suite: str
    model: str
    task: str
    length: int
    template: str
    kind: str
    how: Mapping[str, Any]
    score: float
    source: str
    note: str


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All of them, as the files have them."""
    return tuple(
        figure
        for name in _FILES
        for figure in _read(
            (importlib.resources.files(__name__) / f"{name}.csv").read_text("utf-8")
        )
    )


def _read(text: str) -> list[Figure]:
    return [
        Figure(
            **{name: line[name] for name in ("suite", "model", "task", "template", "kind")},
            length=int(line["length"]),
            how={
                name: int(line[name]) if line[name].isdigit() else line[name]
                for name in _HOW
                if line[name]
            },
            score=float(line["score"]),
            source=line["source"],
            note=line["note"],
        )
        for line in csv.DictReader(text.splitlines())
    ]


def find(
    *, model: str, suite: str, task: str | None = None, length: int | None = None
) -> list[Figure]:
    """The figures of a checkpoint in a suite; of one task, and at one length, if these are given.

    model: the name that its publisher gave the checkpoint, or a path that ends in it.
    """
    name = _name(model)
    return [
        figure
        for figure in figures()
        if figure.suite == suite
        and _name(figure.model) == name
        and task in (None, figure.task)
        and (length is None or _close(figure.length, length))
    ]


def beside(found: Iterable[Figure], row: Mapping[str, Any]) -> Figure | None:
    """The first figure that is of the way of attention of a row.

    row: its kind, whether it `is_exact`, and its sizes and all, by name. What a source does not
    state is not asked for, but for the anchor: it is a whole block.
    """
    return next((figure for figure in found if _fits(figure, row)), None)


def _fits(figure: Figure, row: Mapping[str, Any]) -> bool:
    if figure.kind == _EXACT or row["is_exact"]:
        return figure.kind == _EXACT and bool(row["is_exact"])
    stated = dict(figure.how)
    if figure.kind == "star" and "block_size" not in stated:
        stated["anchor_size"] = row.get("block_size")
    more = row.keys() - {"kind", "is_exact", *_HOW}  # a halo, a correction
    return (
        figure.kind == row["kind"]
        and not any(row[name] for name in more)
        and all(_close(value, row.get(name)) for name, value in stated.items())
    )


def mean_beside(
    tasks: Collection[str], row: Mapping[str, Any], *, model: str, suite: str, length: int | None
) -> float | None:
    """The published mean over exactly these tasks, for the way of attention of a row.

    It is the one that is published as a mean, so that rows of one table stand side by side; else
    that of the tasks' own figures, where each has one.
    """
    if length is None or not tasks:
        return None
    found = find(model=model, suite=suite, length=length)
    for (of_suite, name), over in MEANS.items():
        means = (one for one in found if one.task == name)
        if (of_suite, over) == (suite, frozenset(tasks)) and (one := beside(means, row)):
            return one.score
    each = [beside((one for one in found if one.task == task), row) for task in tasks]
    known = [one.score for one in each if one is not None]
    return statistics.fmean(known) if len(known) == len(each) else None


def _name(model: str) -> str:
    """A checkpoint's name, as it is compared: the hub has Llama 3.1 with and without "Meta-"."""
    return model.rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")


def _close(published: Any, ours: Any) -> bool:
    if isinstance(published, int) and isinstance(ours, int):
        return abs(published - ours) <= _CLOSE * published
    return bool(published == ours)
