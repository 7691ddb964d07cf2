"""The files of a report: the page, its pictures, results.csv and summary.md."""

import csv
import glob
import io
import os
from collections.abc import Sequence
from typing import Any

from star_jax.eval.reporting import sections
from star_jax.eval.reporting.answers import HOW
from star_jax.eval.reporting.drawing import SOFTWARE, Picture
from star_jax.eval.reporting.notes import notes
from star_jax.eval.reporting.page import MARK
from star_jax.eval.reporting.results import Result
from star_jax.eval.reporting.sections import Report
from star_jax.eval.reporting.tables import NOTHING, in_markdown, number
from star_jax.runs import places, records
from star_jax.runs.places import check_regular

PAGE = "index.html"
_PICTURE = "fig-"  # so begin the pictures
_SUMMARY = "# Report"  # so begins summary.md
FIELDS = (
    *("run", "model", "suite", "task", "length", "row", "setting", "kind", *HOW, "more"),
    *("metric", "n", "samples", "nulls", "score", "low", "high"),
    *("n_diff", "diff", "diff_low", "diff_high", "published"),
    *("time_prefill", "time_decode", "time_compile", "prefill_tokens_per_second"),
)


def check(directory: str) -> None:
    """Refuses a directory where a file would be lost that is no earlier report's.

    Raises:
      ValueError: it is the output directory of a run, which has a summary.md, or a link to one; or
        it has a file of a report's name that no report has written.
    """
    if os.path.lexists(os.path.join(directory, "manifest.json")):
        raise ValueError(
            f"{directory}: the report cannot go there: it is the output of a run, with a "
            "summary.md of its own"
        )
    begins = {PAGE: MARK, "results.csv": ",".join(FIELDS), "summary.md": _SUMMARY}
    for name, begin in begins.items():
        if not _has(path := os.path.join(directory, name), begin):
            raise ValueError(
                f"{path}: no report has written it, and it would be lost: give another --output"
            )


def _has(path: str, text: str) -> bool:
    """Whether a file has a text near its beginning, or is not there."""
    if not os.path.lexists(path):
        return True
    check_regular(path)
    with open(path, "rb") as file:
        return text.encode() in file.read(1000)


def write(directory: str, report: Report, page: str, pictures: Sequence[Picture]) -> list[str]:
    """Writes all files, each whole or not at all, the page last; returns their names.

    Pictures of an earlier report that are not in this one go away, and what a killed one has left.
    """
    files: dict[str, str | bytes] = {}
    for picture in pictures:
        name, number_ = f"{_PICTURE}{picture.name}.png", 2
        while name in files:  # two names may be the same without what a file's cannot have
            name, number_ = f"{_PICTURE}{picture.name}-{number_}.png", number_ + 1
        files[name] = picture.png
    files |= {"results.csv": results_csv(report.results), "summary.md": summary(report)}
    with places.output_directory(directory):
        for name, content in files.items():
            records.write_atomically(os.path.join(directory, name), content)
        records.write_atomically(os.path.join(directory, PAGE), page)
        for path in glob.glob(os.path.join(glob.escape(directory), f"{_PICTURE}*.png")):
            if os.path.basename(path) not in files and _has(path, SOFTWARE):
                os.unlink(path)
        for path in glob.glob(os.path.join(glob.escape(directory), f"{_PICTURE}*.png.part")):
            os.unlink(path)
    return [*files, PAGE]


def results_csv(results: Sequence[Result]) -> str:
    """A line for each cell: the tidy table. Scores that are shares are in points of 100."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_line, results))
    return text.getvalue()


def _line(result: Result) -> dict[str, Any]:
    run, cell, diff = result.run, result.cell, result.diff
    row = dict(cell.row)
    how = {name: row.pop(name, None) for name in ("kind", *HOW)}
    more = " ".join(f"{name}={row[name]}" for name in sorted(row.keys() - {"is_exact"}))
    return {
        "run": run.name,
        "model": run.model,
        "suite": run.suite,
        "task": cell.task,
        "length": cell.length,
        "row": cell.name,
        "setting": " | ".join(cell.settings),
        **how,
        "more": more,
        "metric": cell.metric,
        "n": result.n,
        "samples": cell.samples,
        "nulls": result.nulls,
        "published": result.published,
        **{name: _rounded(getattr(result, name)) for name in ("score", "low", "high")},
        "n_diff": diff.n if diff else None,
        "diff": _rounded(diff.mean) if diff else None,
        "diff_low": _rounded(diff.low) if diff else None,
        "diff_high": _rounded(diff.high) if diff else None,
        **{name: round(seconds, 6) for name, seconds in result.times.items()},
        "prefill_tokens_per_second": _rounded(result.tokens_per_second),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summary(report: Report) -> str:
    """What the page says first, as Markdown."""
    lines = [_SUMMARY, ""]
    lines += [f"- {in_markdown(lead.text)}" for lead in sections.leads(report)]
    lines += ["", "## Means over tasks", "", sections.means_table(report).to_markdown(), ""]
    names: dict[str, None] = {}
    for mean in report.means:
        names.setdefault(f"- {in_markdown(mean.run.name)}: {mean.name}")
    lines += [*names, "", "## Scores", "", _scores(report).to_markdown()]
    lines += ["", "## Notes", "", *(f"- {in_markdown(note)}" for note in notes(report.runs)), ""]
    return "\n".join(lines)


def _scores(report: Report) -> sections.Table:
    rows = [
        (
            *(report.named(one.run, one.cell.name), one.cell.task),
            *(str(one.cell.length or "all"), str(one.n)),
            number(one.score, ".1f" if one.cell.is_share else ".4g"),
            number(one.published),
            number(one.diff.mean, "+.1f") if one.diff else NOTHING,
        )
        for one in report.results
    ]
    names = ("row", "task", "length", "n", "score", "published", "vs exact")
    return sections.Table(names, rows, words=2)
