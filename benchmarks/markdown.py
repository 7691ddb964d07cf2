"""Tables that read well in a terminal and render in Markdown."""

from collections.abc import Sequence


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [list(head), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    rows = (" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(f"| {row} |" for row in rows)
