"""What the answers come to: scores with intervals, per cell and over tasks, and differences."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from star_jax.eval import intervals, perplexity, published
from star_jax.eval.published import RULER_TASKS
from star_jax.eval.reporting import paired
from star_jax.eval.reporting.answers import Cell, Run
from star_jax.eval.reporting.paired import Difference

Where = tuple[str, int | None]  # a task and a length


@dataclasses.dataclass(frozen=True)
class Result:
    """One cell's score with its 95% interval, and how it differs from exact attention.

    score: a mean of shares in points of 100, or a perplexity. diff: in the same; None without exact
    attention beside it. nulls: empty answers. n: answers with a score.
    times: seconds, medians over questions, of compiling the total.
    """

    run: Run
    cell: Cell
    n: int
    nulls: int
    score: float | None
    low: float | None
    high: float | None
    diff: Difference | None
    published: float | None
    times: Mapping[str, float]
    tokens_per_second: float | None

    @property
    def settings(self) -> Sequence[str]:
        return self.cell.settings

    @property
    def is_exact(self) -> bool:
        return bool(self.cell.row["is_exact"])


@dataclasses.dataclass(frozen=True)
class Mean:
    """A setting's mean over tasks at one length, in points of 100, each task counting alike.

    name: what the mean may be called. of: how many tasks the run has at this length, or will have;
    where it is more than the setting has answers to, other means are of something else.
    """

    run: Run
    setting: str
    length: int | None
    name: str
    results: Sequence[Result]
    of: int
    score: float
    low: float
    high: float
    published: float | None

    @property
    def tasks(self) -> list[str]:
        return [result.cell.task for result in self.results]

    @property
    def n(self) -> int:
        return sum(result.n for result in self.results)

    @property
    def is_whole(self) -> bool:
        return len(self.results) == self.of

    @property
    def row(self) -> Mapping[str, Any]:
        return self.results[0].cell.row

    @property
    def seconds(self) -> float:
        """Of phase 1, for a question: the mean over tasks of their medians."""
        return statistics.fmean(result.times["time_prefill"] for result in self.results)


def results(run: Run) -> list[Result]:
    """Of each cell of a run."""
    exact = fullest(cell for cell in run.cells if cell.row["is_exact"])
    return [_result(run, cell, exact.get((cell.task, cell.length))) for cell in run.cells]


def fullest(cells: Iterable[Cell]) -> dict[Where, Cell]:
    """Of each task and length, the cell with the most answers; of equals the first.

    This says which exact row others are compared with. Exact rows differ by rounding alone, but one
    of them may have fewer answers.
    """
    found: dict[Where, Cell] = {}
    for cell in cells:
        where = cell.task, cell.length
        if where not in found or len(cell.answers) > len(found[where].answers):
            found[where] = cell
    return found


def _result(run: Run, cell: Cell, exact: Cell | None) -> Result:
    n, score, low, high = _score(cell) if cell.is_share else _perplexity(cell)
    diff = None
    if exact is not None and exact is not cell:
        diff = (
            in_points(paired.difference([pairs(cell, exact)]))
            if cell.is_share
            else _perplexities(cell, exact)
        )
    seconds = sum(one["time_prefill"] for one in cell.answers)
    tokens = sum(one["n_context_tokens"] for one in cell.answers)
    return Result(
        run=run,
        cell=cell,
        n=n,
        nulls=sum(not one["pred"] for one in cell.answers),
        score=score,
        low=low,
        high=high,
        diff=diff,
        published=_published(run, cell) if cell.is_share else None,
        times={
            "time_prefill": statistics.median(one["time_prefill"] for one in cell.answers),
            "time_decode": statistics.median(one["time_decode"] for one in cell.answers),
            "time_compile": math.fsum(one["time_compile"] for one in cell.answers),
        },
        tokens_per_second=tokens / seconds if seconds else None,
    )


def _published(run: Run, cell: Cell) -> float | None:
    if cell.length is None:
        return None
    where: dict[str, Any] = {
        "model": run.model,
        "suite": run.suite,
        "task": cell.task,
        "length": cell.length,
    }
    figure = published.beside(published.find(**where), cell.row)
    return None if figure is None else figure.score


Scored = tuple[int, float | None, float | None, float | None]  # n, score, low, high


def _score(cell: Cell) -> Scored:
    scores = [one["score"] for one in cell.answers if one["score"] is not None]
    if not scores:
        return 0, None, None, None
    low, high = intervals.of_mean(scores)
    return len(scores), 100 * statistics.fmean(scores), 100 * low, 100 * high


def _perplexity(cell: Cell) -> Scored:
    found = [(a["logprob"], a["n_scored"]) for a in cell.answers if a["logprob"] is not None]
    if not found:
        return 0, None, None, None
    logprobs, counts = zip(*found, strict=True)
    low, high = perplexity.interval(logprobs, counts) or (None, None)
    return len(found), perplexity.of(logprobs, counts), low, high


def _perplexities(cell: Cell, exact: Cell) -> Difference | None:
    """The difference of two perplexities over the questions that both have."""
    counts = {(a["index"], a["question"]): a["n_scored"] for a in cell.answers}
    beside = {(a["index"], a["question"]): a["logprob"] for a in exact.answers}
    both = [
        (a["logprob"], beside[key], counts[key])
        for a in cell.answers
        if a["logprob"] is not None and beside.get(key := (a["index"], a["question"])) is not None
    ]
    if not both:
        return None
    mean, bounds = perplexity.difference(*zip(*both, strict=True))
    low, high = bounds or (None, None)
    return Difference(mean, low, high, len(both), 1, is_resampled=False)


def pairs(one: Cell, other: Cell) -> list[tuple[float, float]]:
    """The scores of the questions that both have answered, the very same ones."""
    beside = {(o["index"], o["question"]): o["score"] for o in other.answers}
    found = ((o["score"], beside.get((o["index"], o["question"]))) for o in one.answers)
    return [(a, b) for a, b in found if a is not None and b is not None]


def in_points(found: Difference | None) -> Difference | None:
    """A difference of shares, in points of 100."""
    if found is None or found.low is None or found.high is None:
        return found and dataclasses.replace(found, mean=100 * found.mean)
    return dataclasses.replace(
        found, mean=100 * found.mean, low=100 * found.low, high=100 * found.high
    )


def means(found: Iterable[Result]) -> list[Mean]:
    """Over tasks, per run, length and setting, in the order of the results; shares alone."""
    groups: dict[tuple[str, int | None, str], list[Result]] = {}
    has: dict[tuple[str, int | None], set[str]] = {}
    for result in found:
        if not result.cell.is_share or result.score is None:
            continue
        where = result.run.directory, result.cell.length
        yet = result.run.unbegun.get(result.cell.length, ())
        has.setdefault(where, set(yet)).add(result.cell.task)
        for setting in result.settings:
            groups.setdefault((*where, setting), []).append(result)
    all_means = []
    for (directory, length, setting), some in groups.items():
        tasks = has[directory, length]
        if is_ruler := some[0].run.suite == "ruler" and tasks >= set(RULER_TASKS):
            tasks = set(RULER_TASKS)
            some = [result for result in some if result.cell.task in tasks]
        if some:
            all_means.append(_mean(some, setting, length, len(tasks), is_ruler))
    return all_means


def _mean(
    some: Sequence[Result], setting: str, length: int | None, of: int, is_ruler: bool
) -> Mean:
    run, tasks = some[0].run, [result.cell.task for result in some]
    score = statistics.fmean(result.score or 0.0 for result in some)
    worth = paired.effective([result.n for result in some])
    low, high = intervals.of_weighted_mean(score / 100, worth)
    if len(some) == 1 and some[0].low is not None and some[0].high is not None:
        low, high = some[0].low / 100, some[0].high / 100
    labelled = sum("[" in task for task in tasks)
    name = f"mean of {len(tasks)} task{'s' * (len(tasks) > 1)}"
    is_even = len({result.n for result in some}) == 1
    if is_ruler and len(some) == of and is_even and all(r.n == r.cell.samples for r in some):
        name = f"RULER, mean of its {of} tasks"
    elif labelled:
        name += f", {labelled} of them substitutes or generated"
    beside = published.mean_beside(
        tasks, some[0].cell.row, model=run.model, suite=run.suite, length=length
    )
    return Mean(
        run=run,
        setting=setting,
        length=length,
        name=name,
        results=some,
        of=of,
        score=score,
        low=100 * low,
        high=100 * high,
        published=beside,
    )


def between(one: Sequence[Result], other: Sequence[Result]) -> Difference | None:
    """The mean difference, in points, over the tasks and lengths that both have.

    other: where it has several rows at a task and length, the `fullest` counts.
    """
    beside = fullest(result.cell for result in other if result.cell.is_share)
    tasks = [
        pairs(result.cell, beside[result.cell.task, result.cell.length])
        for result in one
        if result.cell.is_share and (result.cell.task, result.cell.length) in beside
    ]
    return in_points(paired.difference(tasks))
