"""All pictures of a report: which there are, and why others are not."""

import dataclasses
import fractions
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from star_jax.eval.reporting import drawing, lines, maps
from star_jax.eval.reporting.drawing import Look, Picture
from star_jax.eval.reporting.lines import Point
from star_jax.eval.reporting.results import Mean, Result
from star_jax.eval.reporting.tables import length_name

Named = Callable[[Any, str], str]  # of a run and a setting: what the report calls the two


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures of one kind; where there is none, `reason` says why."""

    pictures: Sequence[Picture]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Painter:
    """Draws from the results of all runs. named: what a setting of a run is called."""

    results: Sequence[Result]
    means: Sequence[Mean]
    named: Named
    dpi: int

    @functools.cached_property
    def looks(self) -> dict[str, Look]:
        """Of each setting, the same in all pictures."""
        names: dict[str, None] = {}
        exact: list[str] = []
        for result in self.results:
            for setting in result.settings:
                name = self.named(result.run, setting)
                names[name] = None
                exact += [name] if result.is_exact else []
        return drawing.looks(list(names), exact)

    def by_length(self) -> Gallery:
        """The mean over tasks against length."""
        found: dict[str, list[Point]] = {}
        for mean in self.means:
            if mean.length is not None and mean.is_whole:
                name = self.named(mean.run, mean.setting)
                point = Point(float(mean.length), mean.score, mean.low, mean.high, mean.published)
                found.setdefault(name, []).append(point)
        if self.means and not any(mean.is_whole for mean in self.means):
            return Gallery((), "no setting has answers to all tasks of a length yet")
        if reason := _too_few_lengths(found):
            return Gallery((), reason)
        picture = lines.against_length(found, self.looks, dpi=self.dpi)
        counts = _range([mean.n for mean in self.means if mean.is_whole])
        title = f"Mean over tasks against length; each point of n = {counts} answers"
        return Gallery([Picture("accuracy-length", title, picture)])

    def tasks_by_length(self) -> Gallery:
        """Each task's score against length."""
        tasks: dict[tuple[str, str], list[Result]] = {}
        for result in _scored(self.results):
            tasks.setdefault((result.run.suite, result.cell.task), []).append(result)
        pictures, reason = [], ""
        for (_, task), some in tasks.items():
            found: dict[str, list[Point]] = {}
            for result in some:
                if result.cell.length is not None:
                    point = _point(float(result.cell.length), result)
                    for setting in result.settings:
                        found.setdefault(self.named(result.run, setting), []).append(point)
            if reason := _too_few_lengths(found):
                continue
            png = lines.against_length(found, self.looks, dpi=self.dpi)
            title = f"{task} against length; n = {_range([result.n for result in some])}"
            pictures.append(Picture(_file("accuracy-length", task), title, png))
        return Gallery(pictures, reason)

    def task_maps(self) -> Gallery:
        """Task by length, for each setting."""
        pictures = []
        for name, some in self._by_setting(_scored(self.results)).items():
            scores = {(r.cell.task, r.cell.length): r.score for r in some if r.score is not None}
            tasks = list(dict.fromkeys(task for task, _ in scores))
            lengths = sorted({length for _, length in scores}, key=lambda length: length or 0)
            png = maps.of_tasks(scores, tasks, lengths, dpi=self.dpi)
            title = f"{name}: score by task and length; n = {_range([r.n for r in some])} each"
            pictures.append(Picture(_file("tasks", name), title, png))
        return Gallery(pictures, "no scores that are shares")

    def depth_maps(self) -> Gallery:
        """Depth of the needle by length, for each setting, with the edges between blocks."""
        pictures = []
        for name, some in self._by_setting(_scored(self.results)).items():
            columns = list(_depth_columns(some))
            if not columns:
                continue
            lengths, grids, counts, edges = zip(*columns, strict=True)
            png = maps.of_depths(np.stack(grids, axis=1), lengths, edges, dpi=self.dpi)
            title = f"{name}: score by the needle's depth; n = {_range(counts)} at each length"
            pictures.append(Picture(_file("depth", name), title, png))
        return Gallery(pictures, "no question has exactly one needle whose place is known")

    def by_block(self) -> Gallery:
        """The mean over tasks against block size."""
        return self._by_size("block_size", "block size (tokens)")

    def by_anchor(self) -> Gallery:
        """The mean over tasks against anchor size."""
        return self._by_size("anchor_size", "anchor size (tokens)")

    def by_time(self) -> Gallery:
        """The mean over tasks against the time of phase 1, at each length."""
        pictures = []
        for (run, length), some in _by_length(self.means).items():
            points = {
                mean.setting: Point(mean.seconds, mean.score, mean.low, mean.high) for mean in some
            }
            if len(points) < 2:
                continue
            looks = {mean.setting: self.looks[self.named(mean.run, mean.setting)] for mean in some}
            png = lines.against_time(points, looks, dpi=self.dpi)
            title = _title("score against time", some)
            pictures.append(Picture(_file("time", run, length_name(length)), title, png))
        return Gallery(pictures, "a run has but one row")

    def _by_size(self, size: str, label: str) -> Gallery:
        pictures = []
        for (run, length), some in _by_length(self.means).items():
            found: dict[str, dict[float, Point]] = {}
            for mean in some:
                if mean.row.get("block_size") is not None:
                    x = float(mean.row[size])
                    point = Point(x, mean.score, mean.low, mean.high)
                    found.setdefault(_rest(mean.row, size), {})[x] = point
            several = {name: list(each.values()) for name, each in found.items() if len(each) > 1}
            if not several:
                continue
            exact = max((m for m in some if m.row["is_exact"]), key=lambda m: m.n, default=None)
            looks = drawing.looks(list(several), [])
            png = lines.against_size(
                several, looks, exact=exact.score if exact else None, label=label, dpi=self.dpi
            )
            title = _title(f"score against {size.replace('_', ' ')}", some)
            pictures.append(Picture(_file(size[:-5], run, length_name(length)), title, png))
        name = size.replace("_", " ")
        return Gallery(pictures, f"no two rows differ in their {name} alone")

    def _by_setting(self, some: Sequence[Result]) -> dict[str, list[Result]]:
        found: dict[str, list[Result]] = {}
        for result in some:
            for setting in result.settings:
                found.setdefault(self.named(result.run, setting), []).append(result)
        return found


def _scored(results: Sequence[Result]) -> list[Result]:
    return [one for one in results if one.cell.is_share and one.score is not None]


def _point(x: float, result: Result) -> Point:
    score, low, high = result.score or 0.0, result.low or 0.0, result.high or 0.0
    return Point(x, score, low, high, result.published)


def _too_few_lengths(found: Mapping[str, Sequence[Point]]) -> str:
    lengths = {point.x for points in found.values() for point in points}
    if not lengths:
        return "the questions have no lengths, or no scores"
    return "" if len(lengths) > 1 else "there is one length only"


def _by_length(means: Sequence[Mean]) -> dict[tuple[str, int | None], list[Mean]]:
    """The means that are of all tasks, of each run and length."""
    found: dict[tuple[str, int | None], list[Mean]] = {}
    for mean in means:
        if mean.is_whole:
            found.setdefault((mean.run.name, mean.length), []).append(mean)
    return found


def _depth_columns(
    some: Sequence[Result],
) -> Iterator[tuple[int | None, np.ndarray, int, list[float]]]:
    """For each length: mean scores by depth, how many answers, and the blocks' edges."""
    for length in sorted({r.cell.length for r in some}, key=lambda length: length or 0):
        answers = [
            answer
            for result in some
            if result.cell.length == length
            for answer in result.cell.answers
            if answer["depth"] is not None and answer["score"] is not None
        ]
        if not answers:
            continue
        grid, counts = maps.binned(*zip(*((a["depth"], a["score"]) for a in answers), strict=True))
        block = answers[0]["block_size"]
        tokens = float(np.mean([answer["n_context_tokens"] for answer in answers]))
        yield length, grid, int(counts.sum()), maps.block_edges(block, tokens) if block else []


def _rest(row: Mapping[str, Any], size: str) -> str:
    """What a row is but for one of its sizes; others stand as parts of the block if that varies."""
    words, block = [], row["block_size"]
    for name, value in row.items():
        if name in ("kind", "is_exact", size) or not value:
            continue
        if size == "block_size" and name in ("anchor_size", "halo"):
            words.append(f"{name.removesuffix('_size')} {_part(value, block)}")
        else:
            words.append(f"{name.removesuffix('_size')} {value}")
    if size == "block_size" and not row.get("anchor_size"):
        words.insert(0, "no anchor")
    return ", ".join(words)


def _part(value: int, block: int) -> str:
    """3b/4 of 192 and 256."""
    part = fractions.Fraction(value, block).limit_denominator(64)
    if abs(part * block - value) >= 1:
        return str(value)
    top = "b" if part.numerator == 1 else f"{part.numerator}b"
    return top if part.denominator == 1 else f"{top}/{part.denominator}"


def _title(what: str, some: Sequence[Mean]) -> str:
    run, length = some[0].run.name, length_name(some[0].length)
    over = some[0].name.removeprefix("RULER, ")
    return f"{run} @ {length}: {what}; {over}, n = {_range([mean.n for mean in some])}"


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _file(*parts: str) -> str:
    """A name for a file, of letters that any system takes."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", "-".join(parts))
