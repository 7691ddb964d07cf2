"""What stands on the page, section by section, in words and tables."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from star_jax.eval import published
from star_jax.eval.reporting import paired
from star_jax.eval.reporting.answers import Run
from star_jax.eval.reporting.notes import HOW, notes
from star_jax.eval.reporting.page import Bullets, Fold, Lead, Part, Section
from star_jax.eval.reporting.paired import Difference
from star_jax.eval.reporting.pictures import Gallery, Painter
from star_jax.eval.reporting.recommend import Advice
from star_jax.eval.reporting.results import Mean, Result, between
from star_jax.eval.reporting.tables import NOTHING, Table, interval, length_name, number


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report says, before it is written."""

    runs: Sequence[Run]
    results: Sequence[Result]
    means: Sequence[Mean]
    advice: Sequence[Advice]
    tolerance: float

    def named(self, run: Run, setting: str) -> str:
        """What a setting of a run is called: by the run too, where there are several."""
        return setting if len(self.runs) == 1 else f"{run.name}: {setting}"


def introduction(report: Report) -> list[Part]:
    names = ("run", "model", "suite", "template", "device", "mesh", "answers", "to come")
    rows = [
        (
            *(run.name, run.model, run.suite, str(run.how.get("data.template", ""))),
            str(run.how.get("mesh.device", "")),
            " x ".join(str(run.how.get(f"mesh.{a}", "?")) for a in ("data", "context", "tensor")),
            str(sum(len(cell.answers) for cell in run.cells)),
            str(run.unread or NOTHING),
        )
        for run in report.runs
    ]
    parts: list[Part] = [*leads(report), Table(names, rows, words=6)]
    if any(run.unread for run in report.runs):
        parts.append("A run is not finished: each score is of the answers that are there.")
    return parts


def leads(report: Report) -> list[Lead]:
    """What to take, run by run."""
    return [
        Lead(
            advice.text if len(report.runs) == 1 else f"{advice.run.name}: {advice.text}",
            is_good=advice.best is not None,
        )
        for advice in report.advice
    ]


def sections(report: Report, painter: Painter) -> tuple[list[Section], list[Gallery]]:
    """The sections, and the galleries that are in them."""
    galleries = [
        *(painter.by_length(), painter.tasks_by_length(), painter.task_maps()),
        *(painter.depth_maps(), painter.by_block(), painter.by_anchor(), painter.by_time()),
    ]
    length, tasks, maps, depths, block, anchor, time = galleries
    found = [
        Section("Which setting to take", list(_advice(report))),
        Section("Means over tasks", [means_table(report), _MEANS, *_mean_names(report)]),
        Section(
            "Accuracy against length",
            [*_shown(length), *_folded("Each task against length", tasks), _PUBLISHED_LINES],
        ),
        Section("Tasks", list(_pivots(report))),
        Section("Task by length", _shown(maps)),
        Section("Needle depth by length", [_DEPTHS, *_shown(depths)]),
        Section("Block size", _shown(block)),
        Section("Anchor size", _shown(anchor)),
        Section("Accuracy against time", [_TIME, *_shown(time)]),
        Section("Differences to exact attention", list(_to_exact(report))),
    ]
    if len(report.runs) > 1:
        found.append(Section("Differences between runs", list(_between_runs(report))))
    if others := [one for one in report.results if not one.cell.is_share]:
        found.append(Section("Other metrics", [_OTHERS, _others(report, others)]))
    if sources := _sources(report):
        found.append(Section("Published scores", [_PUBLISHED, sources]))
    found.append(Section("Notes", [Bullets(notes(report.runs)), *HOW]))
    return found, galleries


_EXACT = "exact attention"
_MEANS = (
    "Each task counts alike; below a mean is its 95% interval. It is called RULER only where all "
    "13 of its tasks are there, none of them a substitute."
)
_PUBLISHED_LINES = "Bars are 95% intervals. Dotted lines are published scores, where there are any."
_DEPTHS = (
    "Where the needle stands in the context, of questions that have exactly one. Orange lines are "
    "the edges between blocks; where a column has none, it is exact attention, or has too many."
)
_TIME = (
    "Seconds of phase 1 for a question, as this run had them: the mean over tasks of their "
    "medians. Compiling is not in it. To the left and up is better."
)
_OTHERS = "Perplexities of the reference answers are no shares, and in no mean. Lower is better."
_PUBLISHED = (
    "Scores that others have published for this checkpoint, task, length and way of attention. "
    "Their prompts may differ: compare the templates. Their numbers of questions may differ too."
)


def _shown(gallery: Gallery) -> list[Part]:
    if gallery.pictures:
        return [gallery.pictures]
    return [f"No picture: {gallery.reason}."]


def _folded(title: str, gallery: Gallery) -> list[Part]:
    return [Fold(title, [gallery.pictures])] if gallery.pictures else []


def _advice(report: Report) -> Iterator[Part]:
    yield (
        "The lower bound of a setting's paired 95% interval must not be further below exact "
        f"attention than the tolerance, {report.tolerance:g} points of 100. Differences are over "
        "all tasks and lengths that both have answers to. A setting without answers to all that "
        "exact attention has is incomplete, and not ranked. Times are of phase 1, beside the "
        "fastest exact row of each task and length."
    )
    rows = [
        (
            *(report.named(advice.run, one.setting), str(one.diff.n)),
            f"{one.diff.tasks} of {one.of}",
            *_difference(one.diff, ".2f"),
            f"{one.speed_up:.2f}",
            ("yes" if one.is_within(report.tolerance) else "no")
            if one.is_complete
            else "incomplete",
        )
        for advice in report.advice
        for one in advice.candidates
    ]
    yield from (advice.text for advice in report.advice if not advice.candidates)
    if rows:
        names = ("setting", "n", "tasks and lengths", "vs exact", "95%", "times as fast", "within")
        yield Table(names, rows)


def means_table(report: Report) -> Table:
    """A row for each setting, a column for each length."""
    lengths = sorted({mean.length for mean in report.means}, key=lambda length: length or 0)
    by: dict[str, dict[int | None, Mean]] = {}
    for mean in report.means:
        by.setdefault(report.named(mean.run, mean.setting), {})[mean.length] = mean
    usual = {length: _usual(report.means, length) for length in lengths}
    rows = []
    for name, at in by.items():
        cells = [
            _mean(at[length], usual[length]) if length in at else NOTHING for length in lengths
        ]
        rows.append((name, *cells))
        known = [at[length].published if length in at else None for length in lengths]
        if any(score is not None for score in known):
            rows.append((f"{name}, published", *(number(score) for score in known)))
    heads = [f"{length_name(length)}\n{usual[length]}" for length in lengths]
    return Table(("setting", *heads), rows)


def _usual(means: Sequence[Mean], length: int | None) -> str:
    """What most means at a length are over."""
    return Counter(_over(mean) for mean in means if mean.length == length).most_common(1)[0][0]


def _over(mean: Mean) -> str:
    count = f"{len(mean.results)}{'' if mean.is_whole else f' of {mean.of}'}"
    return f"{count} task{'s' * (mean.of > 1)}, n = {mean.n}"


def _mean(mean: Mean, usual: str) -> str:
    over = _over(mean)
    lines = [number(mean.score), interval(mean.low, mean.high), *([] if over == usual else [over])]
    return "\n".join(lines)


def _mean_names(report: Report) -> list[Part]:
    """What the means of each run may be called, and at which lengths."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for mean in report.means:
        told.setdefault((mean.run.name, mean.name), {})[length_name(mean.length)] = None
    return [Bullets([f"{run} @ {', '.join(at)}: {name}" for (run, name), at in told.items()])]


def _pivots(report: Report) -> Iterator[Part]:
    """For each length a table: tasks down, settings across."""
    results = [one for one in report.results if one.cell.is_share]
    lengths = sorted({one.cell.length for one in results}, key=lambda length: length or 0)
    if not results:
        yield "No scores that are shares."
    for i, length in enumerate(lengths):
        some = [one for one in results if one.cell.length == length]
        names = {report.named(r.run, s): None for r in some for s in r.settings}
        cells = {
            (r.cell.task, report.named(r.run, s)): f"{number(r.score)} ({r.n})"
            for r in some
            for s in r.settings
        }
        tasks = dict.fromkeys(r.cell.task for r in some)
        rows = [(task, *(cells.get((task, name), NOTHING) for name in names)) for task in tasks]
        means = {
            report.named(m.run, m.setting): f"{number(m.score)} ({m.n})"
            for m in report.means
            if m.length == length
        }
        rows.append(("mean", *(means.get(name, NOTHING) for name in names)))
        title = f"{length_name(length)}: score (n), tasks and settings"
        yield Fold(title, [Table(("task", *names), rows)], is_open=i == len(lengths) - 1)


def _to_exact(report: Report) -> Iterator[Part]:
    if not any(one.diff for one in report.results):
        yield "There is none: no run has both exact attention and another row."
        return
    rows = []
    for mean in report.means:
        exact = [
            one
            for one in report.results
            if one.is_exact and one.run is mean.run and one.cell.length == mean.length
        ]
        found = None if mean.row["is_exact"] else between(mean.results, exact)
        if found:
            name = report.named(mean.run, mean.setting)
            rows.append((name, length_name(mean.length), *_counted(found)))
    yield Table(("setting", "length", "tasks", "n", "vs exact", "95%"), rows, words=1)
    each = [
        (
            *(report.named(one.run, one.cell.name), one.cell.task, length_name(one.cell.length)),
            *(str(one.n), number(one.score), interval(one.low, one.high)),
            *_difference(one.diff),
        )
        for one in report.results
        if one.diff
    ]
    names = ("row", "task", "length", "n", "score", "95%", "vs exact", "95%")
    yield Fold("Each task", [Table(names, each, words=2)])
    yield _few(report)


def _few(report: Report) -> str:
    return (
        f"†: fewer than {paired.FEWEST} questions differ, or a task has fewer, too few to be drawn "
        "anew; the interval is a wider one. See the notes."
    )


def _between_runs(report: Report) -> Iterator[Part]:
    first, *others = report.runs
    exact: dict[int | None, list[Result]] = {}
    for one in report.results:
        if one.run is first and one.is_exact:
            exact.setdefault(one.cell.length, []).append(one)
    for run in others:
        pairs = []
        for row in dict.fromkeys(cell.name for cell in run.cells):
            for length in sorted({c.length for c in run.cells}, key=lambda length: length or 0):
                ours, theirs = (
                    [
                        one
                        for one in report.results
                        if one.run is of and (one.cell.name, one.cell.length) == (row, length)
                    ]
                    for of in (run, first)
                )
                beside = row if theirs else _EXACT
                if found := between(ours, theirs or exact.get(length, [])):
                    pairs.append((row, beside, length_name(length), *_counted(found)))
        title = f"{run.name} less {first.name}"
        if pairs:
            names = ("row", "less", "length", "tasks", "n", "difference", "95%")
            yield Fold(title, [Table(names, pairs, words=2)], is_open=True)
        else:
            yield (
                f"{title}: nothing to compare. No row of the same name, and no exact attention, "
                "was asked the same questions: another seed, tokenizer or template makes other "
                "ones."
            )
    yield (
        "Over the questions that both have answered, the very same ones. A row is compared with "
        f"the one of its name in {first.name}, or else with exact attention there."
    )


def _counted(found: Difference) -> tuple[str, ...]:
    return (str(found.tasks), str(found.n), *_difference(found))


def _difference(found: Difference | None, form: str = ".1f") -> tuple[str, str]:
    if found is None:
        return NOTHING, NOTHING
    mark = "" if found.is_resampled or found.low is None else " †"
    return number(found.mean, f"+{form}"), interval(found.low, found.high, f"+{form}") + mark


def _others(report: Report, others: Sequence[Result]) -> Table:
    rows = [
        (
            *(one.cell.metric, one.cell.task, report.named(one.run, one.cell.name)),
            *(length_name(one.cell.length), str(one.n)),
            *(number(one.score, ".4g"), interval(one.low, one.high, ".4g")),
            number(one.diff.mean, "+.3g") if one.diff else NOTHING,
            interval(one.diff.low, one.diff.high, "+.3g") if one.diff else NOTHING,
        )
        for one in others
    ]
    names = ("metric", "task", "row", "length", "n", "score", "95%", "vs exact", "95%")
    return Table(names, rows, words=3)


def _sources(report: Report) -> Table | None:
    """All published figures that stand beside a result, with their sources."""
    found: dict[tuple[str, ...], None] = {}
    for run in report.runs:
        cells: Mapping[tuple[int | None, str], Any] = {
            (cell.length, cell.name): cell.row for cell in run.cells
        }
        for (length, name), row in cells.items():
            figures = published.find(model=run.model, suite=run.suite, length=length)
            asked = {c.task for c in run.cells if (c.length, c.name) == (length, name)}
            means = {t for (s, t), of in published.MEANS.items() if s == run.suite and of <= asked}
            for task in (*sorted(asked), *sorted(means)):
                figure = published.beside((one for one in figures if one.task == task), row)
                if length is not None and figure is not None:
                    where = (figure.model, figure.task, length_name(figure.length), name)
                    template = figure.template or NOTHING
                    what = (template, f"{figure.source}{figure.note and f' ({figure.note})'}")
                    found[(*where, *what, number(figure.score, ".2f"))] = None
    names = ("model", "task", "length", "row", "template", "source", "score")
    return Table(names, list(found), words=6) if found else None
