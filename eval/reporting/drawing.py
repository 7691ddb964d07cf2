"""What pictures share: paper, colours and marks; the one place that imports matplotlib.

Colours are those of Okabe and Ito (2008), which readers with any kind of colour vision tell apart;
each setting has a mark of its own as well. Maps are in cividis, whose lightness grows evenly.
"""

import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

from star_jax.printable import printable

SOFTWARE = "star_jax.report"
WIDTH, HEIGHT, DPI = 6.4, 3.9, 150  # inches, and dots to one of them
_LEGEND_LINE = 0.21  # inches
_LONGEST = 80  # characters of a name, in a legend of one column
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D1F"),
    "#6A51A3",
)
_MARKS = "osD^vPX<>*"
_BLACK = "#222222"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG, the name of its file, and what it shows, in words."""

    name: str
    title: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Look:
    """How a setting is drawn, the same in all pictures."""

    colour: str
    mark: str


def looks(names: Sequence[str], exact: Sequence[str]) -> dict[str, Look]:
    """A look for each name; exact attention is black."""
    found: dict[str, Look] = {}
    dark = zip(itertools.cycle((_BLACK, "#777777")), itertools.cycle(_MARKS), strict=False)
    bright = zip(itertools.cycle(_COLOURS), itertools.cycle(_MARKS[1:]), strict=False)
    for name in names:
        colour, mark = next(dark if name in exact else bright)
        found[name] = Look(colour, mark)
    return found


def check_installed() -> None:
    """Raises ValueError, with what to do, where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.set_loglevel("ERROR")  # it tells of its fonts
    except ImportError as e:
        raise ValueError(
            "pictures are drawn by matplotlib, which is not installed: "
            "pip install 'star-jax[report]'"
        ) from e


def paper(width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    """A figure of its own, with axes; nothing of matplotlib's global state is used."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Any, *, dpi: int) -> bytes:
    """The figure, the same bytes for the same picture; `SOFTWARE` is in its metadata."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": SOFTWARE})
    return file.getvalue()


def plain(name: str) -> str:
    """A name as a picture can have it: in one line, with no formulas in it, and not too long."""
    name = printable(name)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}…{name[-(_LONGEST // 2) :]}"
    return name.replace("$", r"\$")


def label(name: str) -> str:
    """What a legend says of a name; it would leave out one that begins with an underscore."""
    return f" {plain(name)}" if name.startswith("_") else plain(name)


def legend(figure: Any, axes: Any) -> None:
    """Under the picture, which grows for it: it hides no data, and has room for long names."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=0)
    columns = 3 if longest < 18 else 2 if longest < 32 else 1
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _LEGEND_LINE * -(-len(names) // columns))
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5
    )


def score_axis(axes: Any, values: Sequence[float]) -> None:
    """Scores in points: the whole scale, unless all are near its top."""
    lowest = min(values, default=0.0)
    bottom = lowest - 4 if lowest > 50 else -2.0
    axes.set_yticks([tick for tick in range(0, 101, 10 if bottom < 45 else 5) if tick > bottom])
    axes.set_ylim(bottom, 102)
    axes.set_ylabel("score (points)")
