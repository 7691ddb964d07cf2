"""Tables, as HTML and as Markdown: words to the left, numbers to the right."""

import dataclasses
import html
from collections.abc import Sequence

from star_jax.printable import printable

MINUS, NOTHING = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclasses.dataclass(frozen=True)
class Table:
    """names: of the columns; those that `words` counts, from the left, hold words.

    What follows the first line of a cell is a remark on it.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def to_html(self) -> str:
        """A table in a box of its own, which scrolls sideways on a narrow page."""

        def cells(tag: str, row: Sequence[str]) -> str:
            return "".join(
                f"<{tag}{' class=w' if i < self.words else ''}>{_in_html(cell)}</{tag}>"
                for i, cell in enumerate(row)
            )

        body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in self.rows)
        head = f"<thead><tr>{cells('th', self.names)}</tr></thead>"
        table = f"<table>{head}\n<tbody>\n{body}\n</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'

    def to_markdown(self) -> str:
        rule = ["---" if i < self.words else "---:" for i in range(len(self.names))]
        lines = [self.names, rule, *self.rows]
        return "\n".join(f"| {' | '.join(map(_cell_in_markdown, line))} |" for line in lines)


def escaped(text: str) -> str:
    """Text from anywhere, as it can stand in the page."""
    return html.escape(printable(text))


def in_markdown(text: str) -> str:
    """Text from anywhere, as it can stand in Markdown, which takes HTML for what it says."""
    return html.escape(printable(text), quote=False)


def _in_html(text: str) -> str:
    first, *rest = text.split("\n")
    return escaped(first) + "".join(f"<br><small>{escaped(line)}</small>" for line in rest)


def _cell_in_markdown(text: str) -> str:
    first, *rest = text.split("\n")
    text = f"{first} ({'; '.join(rest)})" if rest else first
    return in_markdown(text).replace("|", r"\|")


def number(value: float | None, form: str = ".1f") -> str:
    """A number, or a dash; a minus is as wide as a plus."""
    return NOTHING if value is None else format(value, form).replace("-", MINUS)


def interval(low: float | None, high: float | None, form: str = ".1f") -> str:
    return NOTHING if low is None else f"{number(low, form)} to {number(high, form)}"


def length_name(length: int | None) -> str:
    """4096 is 4K; what is no multiple of 1024 stays as it is."""
    if length is None:
        return "all"
    return f"{length // 1024}K" if length % 1024 == 0 else str(length)
