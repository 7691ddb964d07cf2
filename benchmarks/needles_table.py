"""Tables of needles found, from the summaries that `python -m star_jax.eval` writes."""

import csv
import pathlib

from benchmarks import markdown

TASKS = {
    "niah_single_1": "a needle in noise",
    "prose": "one of four needles in prose",
}


def of(path: pathlib.Path) -> str:
    """A line per task and length; a column per kind of attention."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {"dense": "exact", "star": "star", "0": "star without anchor"}
    if any(row["kind"] == "streaming" for row in rows):
        columns["streaming"] = "sinks and a window"
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        column = "0" if row["anchor_size"] == "0" else row["kind"]
        line = cells.setdefault((row["task"], int(row["length"])), {})
        line[column], line["n"] = f"{float(row['score']):.1f}", row["n"]
    head = ["needles found, %", "tokens", "questions", *columns.values(), "the anchor's worth"]
    lines = []
    for (task, length), found in cells.items():
        worth = f"{float(found['star']) - float(found['0']):+.1f}"
        scores = (found.get(column, "") for column in columns)
        lines.append([TASKS[task], str(length), found["n"], *scores, worth])
    return markdown.table(head, lines)
