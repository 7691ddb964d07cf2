"""Pictures with lines: scores against length, block size, anchor size, and time."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_jax.eval.reporting import drawing
from star_jax.eval.reporting.drawing import Look
from star_jax.eval.reporting.tables import length_name

_APART, _MOST_APART = 0.012, 0.06  # of the axis: points at one place are moved so far apart


@dataclasses.dataclass(frozen=True)
class Point:
    """A score in points, with its interval; `published` is another's, where there is one."""

    x: float
    score: float
    low: float
    high: float
    published: float | None = None


Lines = Mapping[str, Sequence[Point]]


def against_length(lines: Lines, looks: Mapping[str, Look], *, dpi: int) -> bytes:
    """A line for each setting; published scores are dotted, in the same colour."""
    figure, axes = drawing.paper()
    axes.set_xscale("log", base=2)
    ticks = sorted({point.x for points in lines.values() for point in points})
    _draw(axes, lines, looks, shift=lambda x, by: x * 2 ** (by * _span(ticks)))
    axes.set_xticks(ticks, [length_name(int(tick)) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("length (tokens)")
    return _done(figure, axes, lines, dpi)


def against_size(
    lines: Lines, looks: Mapping[str, Look], *, exact: float | None, label: str, dpi: int
) -> bytes:
    """A line for each way; exact attention's score is a dashed line across.

    Sizes stand side by side, each as far from the next: a size of 0 has no place on a scale of
    doublings, and on an even one most sizes would share a place.
    """
    figure, axes = drawing.paper()
    ticks = sorted({point.x for points in lines.values() for point in points})
    spread = max(1, len(ticks) - 1)
    _draw(axes, lines, looks, shift=lambda x, by: ticks.index(x) + by * spread)
    axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xlabel(label)
    if exact is not None:
        axes.axhline(exact, color="#222222", linestyle="--", linewidth=1.2, label="exact")
    return _done(figure, axes, lines, dpi, [] if exact is None else [exact])


def against_time(points: Mapping[str, Point], looks: Mapping[str, Look], *, dpi: int) -> bytes:
    """A point for each setting, and the Pareto front: those that none beats in time and score."""
    figure, axes = drawing.paper()
    times = [point.x for point in points.values()]
    if min(times) > 0 and max(times) > 8 * min(times):
        axes.set_xscale("log")
    for name, point in points.items():
        axes.errorbar(
            [point.x],
            [point.score],
            yerr=_bars([point]),
            color=looks[name].colour,
            marker=looks[name].mark,
            linestyle="",
            markersize=7,
            capsize=2,
            elinewidth=0.8,
            label=drawing.label(name),
        )
    best = [points[name] for name in front(points)]
    axes.step(
        [*(point.x for point in best), max(times)],
        [*(point.score for point in best), best[-1].score],
        where="post",
        color="#999999",
        linewidth=1.5,
        zorder=1,
        label="Pareto front",
    )
    axes.set_xlabel("seconds of phase 1, for a question")
    return _done(figure, axes, {name: [point] for name, point in points.items()}, dpi)


def front(points: Mapping[str, Point]) -> list[str]:
    """The names that are on the Pareto front, fastest first."""
    found: list[str] = []
    for name in sorted(points, key=lambda name: (points[name].x, -points[name].score)):
        if not found or points[name].score > points[found[-1]].score:
            found.append(name)
    return found


def _draw(
    axes: Any, lines: Lines, looks: Mapping[str, Look], *, shift: Callable[[float, float], float]
) -> None:
    middle, apart = (len(lines) - 1) / 2, min(_APART, _MOST_APART / len(lines))
    is_told = False
    for i, (name, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda point: point.x)
        look = looks[name]
        axes.errorbar(
            [shift(point.x, (i - middle) * apart) for point in points],
            [point.score for point in points],
            yerr=_bars(points),
            color=look.colour,
            marker=look.mark,
            markersize=5,
            linewidth=1.6,
            elinewidth=0.8,
            capsize=2,
            label=drawing.label(name),
            alpha=0.85,
        )
        known = [(point.x, point.published) for point in points if point.published is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                color=look.colour,
                linestyle=":",
                marker=look.mark,
                markersize=4,
                markerfacecolor="white",
                linewidth=1.6,
                label=None if is_told else "dotted: published",
            )
            is_told = True


def _bars(points: Sequence[Point]) -> list[list[float]]:
    below = [max(0.0, point.score - point.low) for point in points]
    return [below, [max(0.0, point.high - point.score) for point in points]]


def _span(ticks: Sequence[float]) -> float:
    """Doublings from the first tick to the last."""

    return math.log2(max(ticks) / min(ticks)) or 1.0


def _done(figure: Any, axes: Any, lines: Lines, dpi: int, more: Sequence[float] = ()) -> bytes:
    points = [point for each in lines.values() for point in each]
    published = [point.published for point in points if point.published is not None]
    drawing.score_axis(axes, [*(point.low for point in points), *published, *more])
    drawing.legend(figure, axes)
    return drawing.png(figure, dpi=dpi)
