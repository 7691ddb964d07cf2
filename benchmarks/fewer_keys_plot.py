"""Draws the tables of `benchmarks.fewer_keys`: answers against the bytes that are kept.

    python -m benchmarks.fewer_keys_plot --table=benchmarks/results/fewer_keys_needle.csv \\
        --out=docs/fewer_keys_needle.png

It needs matplotlib: pip install 'star-jax[report]'.
"""

import csv
import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

from star_jax.eval.reporting import drawing
from star_jax.runs import cli

Row = Mapping[str, str]


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_string("table", None, "A CSV file.", required=True)
    flags.DEFINE_string("out", None, "A PNG file.", required=True)


def lines(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """The points of each criterion and dtype, from all keys on: share of the bytes, right (%)."""
    full = {row["cache"]: row for row in rows if row["criterion"] == "all"}
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["criterion"] == "all":
            continue
        name = row["criterion"] + ("" if row["cache"] == "model" else f", {row['cache']}")
        begin = full[row["cache"]]
        points = found.setdefault(name, [(float(begin["of_plain"]), float(begin["right"]))])
        points.append((float(row["of_plain"]), float(row["right"])))
    return found


def draw(rows: Sequence[Row]) -> bytes:
    """A picture of a table of one length: a colour for each criterion, dashes for 8 bits."""
    figure, axes = drawing.paper()
    criteria = dict.fromkeys(row["criterion"] for row in rows if row["criterion"] != "all")
    looks = drawing.looks(list(criteria), ["random"])
    for name, points in lines(rows).items():
        criterion, *small = name.split(", ")
        look, style = looks[criterion], "--" if small else "-"
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, style, label=name, color=look.colour, marker=look.mark)
    axes.set_xlabel("bytes, of those of all keys")
    axes.set_ylabel("needles found, %")
    axes.set_title(f"{rows[0]['length']} tokens, {rows[0]['questions']} questions a point")
    drawing.legend(figure, axes)
    return drawing.png(figure, dpi=100)


def main(argv: Sequence[str]) -> None:
    del argv
    drawing.check_installed()
    with pathlib.Path(flags.FLAGS.table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    pathlib.Path(flags.FLAGS.out).write_bytes(draw(rows))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
