"""Heat maps: scores by task and length, and by the needle's depth and length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from star_jax.eval.reporting import drawing
from star_jax.eval.reporting.tables import length_name

BINS = 10  # of depths
_MOST_EDGES = 32  # in a column; more of them would hide the map


def of_tasks(
    scores: Mapping[tuple[str, int | None], float],
    tasks: Sequence[str],
    lengths: Sequence[int | None],
    *,
    dpi: int,
) -> bytes:
    """A row for each task, a column for each length; what was not asked is blank."""
    grid = np.full((len(tasks), len(lengths)), np.nan)
    for (task, length), score in scores.items():
        grid[tasks.index(task), lengths.index(length)] = score
    names = list(map(drawing.plain, tasks))
    longest = max(map(len, names))
    figure, axes = drawing.paper(
        max(3.0, 1.2 + 0.085 * longest + 0.62 * len(lengths)), 1.1 + 0.3 * len(tasks)
    )
    _draw(figure, axes, grid)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(range(len(lengths)), list(map(length_name, lengths)))
    axes.set_xlabel("length (tokens)")
    return drawing.png(figure, dpi=dpi)


def of_depths(
    grid: np.ndarray, lengths: Sequence[int | None], edges: Sequence[Sequence[float]], *, dpi: int
) -> bytes:
    """A row for each tenth of the depth, a column for each length.

    grid: [BINS, lengths], in points, nan where no needle is. edges: of each length, the depths,
    0 to 1, where one block ends and the next begins.
    """
    figure, axes = drawing.paper(max(3.4, 1.9 + 0.72 * len(lengths)), 3.6)
    _draw(figure, axes, grid)
    for column, depths in enumerate(edges):
        for depth in depths if len(depths) <= _MOST_EDGES else ():
            axes.plot(
                [column - 0.5, column + 0.5],
                [depth * BINS - 0.5] * 2,
                color="#D55E00",
                linewidth=1.6,
                solid_capstyle="butt",
            )
    ticks = [-0.5, BINS / 4 - 0.5, BINS / 2 - 0.5, 3 * BINS / 4 - 0.5, BINS - 0.5]
    axes.set_yticks(ticks, ["0%", "25%", "50%", "75%", "100%"])
    axes.set_ylim(BINS - 0.5, -0.5)
    axes.set_ylabel("depth of the needle")
    axes.set_xticks(range(len(lengths)), list(map(length_name, lengths)))
    axes.set_xlabel("length (tokens)")
    return drawing.png(figure, dpi=dpi)


def binned(depths: Sequence[float], scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores, in points, and counts of each tenth of the depth; nan where nothing is."""
    which = np.minimum((np.asarray(depths, float) * BINS).astype(int), BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    totals = np.bincount(which, weights=100 * np.asarray(scores, float), minlength=BINS)
    return np.divide(totals, counts, out=np.full(BINS, np.nan), where=counts > 0), counts


def block_edges(block: int, tokens: float | int) -> list[float]:
    """Depths, 0 to 1, of the edges between blocks, in a context of so many tokens."""
    return [i * block / tokens for i in range(1, int(np.ceil(tokens / block)))]


def _draw(figure: Any, axes: Any, grid: np.ndarray) -> None:
    import matplotlib
    from matplotlib.patheffects import withStroke

    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#eeeeee")
    image = axes.imshow(
        grid, cmap=colours, vmin=0, vmax=100, aspect="auto", interpolation="nearest"
    )
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            around = image.cmap(image.norm(value))  # keeps a line off the number
            axes.text(
                x,
                y,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value < 50 else "black",
                path_effects=[withStroke(linewidth=3, foreground=around)],
                zorder=5,
            )
    bar = figure.colorbar(image, ax=axes, pad=0.02, shrink=0.9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
