"""A report, from the directories of runs to its files."""

import os
from collections import Counter
from collections.abc import Sequence

from star_jax.eval.reporting import answers, drawing, files, sections
from star_jax.eval.reporting import results as results_lib
from star_jax.eval.reporting.answers import Run
from star_jax.eval.reporting.page import page
from star_jax.eval.reporting.pictures import Painter
from star_jax.eval.reporting.recommend import advise
from star_jax.eval.reporting.sections import Report


def build(
    directories: Sequence[str], *, output: str, tolerance: float, dpi: int = drawing.DPI
) -> Report:
    """Reads runs, and writes their report to the directory `output`.

    Raises:
      ValueError, OSError: a directory is no run or has no answers, a record is broken, there is no
        matplotlib, or the output cannot be written or is the directory of a run.
    """
    if not directories:
        raise ValueError("name the output directory of an evaluation, or several")
    if len(set(map(os.path.realpath, directories))) < len(directories):
        raise ValueError(f"{', '.join(directories)}: one directory is named twice")
    if tolerance < 0:
        raise ValueError(f"{tolerance=} must be at least 0 points")
    files.check(output)
    drawing.check_installed()
    runs = [
        answers.read(directory, name=name)
        for directory, name in zip(directories, _names(directories), strict=True)
    ]
    report = _report(runs, tolerance)
    painter = Painter(report.results, report.means, report.named, dpi)
    found, galleries = sections.sections(report, painter)
    title = f"Evaluation: {', '.join(run.name for run in runs)}"
    pictures = [picture for gallery in galleries for picture in gallery.pictures]
    text = page(title, sections.introduction(report), found)
    files.write(output, report, text, pictures)
    return report


def _report(runs: Sequence[Run], tolerance: float) -> Report:
    results = [result for run in runs for result in results_lib.results(run)]
    advice = [
        advise(run, [one for one in results if one.run is run], tolerance=tolerance) for run in runs
    ]
    return Report(runs, results, results_lib.means(results), advice, tolerance)


def _names(directories: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole where two have the same."""
    last = [os.path.basename(os.path.abspath(directory)) for directory in directories]
    counts = Counter(last)
    return [
        name if counts[name] == 1 else directory
        for name, directory in zip(last, directories, strict=True)
    ]
