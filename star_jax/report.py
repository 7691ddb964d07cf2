"""Writes a report on evaluations: a page with pictures, a table, and what setting to take.

    python -m star_jax.report DIR [DIR...]

DIR is the output directory of `python -m star_jax.eval`, finished or not. The report goes to
DIR/report of the first: index.html, which needs no other file, its pictures as PNGs, results.csv
and summary.md. With several directories the later ones are compared with the first.
"""

import math
import os
import sys
from collections.abc import Sequence

from absl import flags

from star_jax.eval.reporting import build, files, sections
from star_jax.runs import cli


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_float(
        "tolerance", 1.0, "How far below exact attention a recommended setting may be, in points."
    )
    flags.DEFINE_string("output", "", "Where the report goes; else DIR/report of the first DIR.")


def main(argv: Sequence[str]) -> None:
    """Reports on the directories of the command line."""
    directories, given = argv[1:], flags.FLAGS
    if not directories:
        raise ValueError("name the output directory of an evaluation: star_jax.report DIR [DIR...]")
    if not (math.isfinite(given.tolerance) and given.tolerance >= 0):
        raise ValueError(f"--tolerance={given.tolerance} must be at least 0 points")
    output = given.output or os.path.join(directories[0], "report")
    report = build.build(directories, output=output, tolerance=given.tolerance)
    with cli.printing():
        for lead in sections.leads(report):
            print(lead.text)
    print(f"the report is {os.path.join(output, files.PAGE)}", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    cli.run(main, takes="DIR", interrupted="give the same command again")
