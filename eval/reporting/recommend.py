"""Which setting to take: the fastest one that is as good as exact attention, within a tolerance."""

import dataclasses
from collections.abc import Sequence

from star_jax.eval.reporting.answers import Run
from star_jax.eval.reporting.paired import Difference
from star_jax.eval.reporting.results import Result, between


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting beside exact attention, over the tasks and lengths that both have.

    speed_up: of phase 1: exact attention's seconds by the setting's, medians of tasks and lengths
    added up. of: how many tasks and lengths exact attention has.
    """

    setting: str
    diff: Difference
    speed_up: float
    of: int

    def is_within(self, tolerance: float) -> bool:
        return self.diff.low is not None and self.diff.low >= -tolerance


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to take in a run. text: in words. best: None where no setting qualifies."""

    run: Run
    candidates: Sequence[Candidate]
    best: Candidate | None
    text: str


def advise(run: Run, found: Sequence[Result], *, tolerance: float) -> Advice:
    """The fastest setting whose paired 95% lower bound is within `tolerance` points of exact."""
    exact: dict[tuple[str, int | None], Result] = {}
    settings: dict[str, list[Result]] = {}
    for result in found:
        if not result.cell.is_share or result.score is None:
            continue
        if result.is_exact:
            exact.setdefault((result.cell.task, result.cell.length), result)
        else:
            for setting in result.settings:
                settings.setdefault(setting, []).append(result)
    if not exact:
        return Advice(run, (), None, "No recommendation: no row is exact attention.")
    candidates = [
        candidate
        for setting, some in settings.items()
        if (candidate := _candidate(setting, some, list(exact.values())))
    ]
    if not candidates:
        text = "No recommendation: exact attention has no other row beside it."
        return Advice(run, (), None, text)
    candidates.sort(key=lambda one: -one.speed_up)
    fit = [one for one in candidates if one.is_within(tolerance)]
    best = fit[0] if fit else None
    return Advice(run, candidates, best, _text(candidates, best, tolerance))


def _candidate(setting: str, some: Sequence[Result], exact: Sequence[Result]) -> Candidate | None:
    beside = {(one.cell.task, one.cell.length): one for one in exact}
    both = [
        (one, beside[one.cell.task, one.cell.length])
        for one in some
        if (one.cell.task, one.cell.length) in beside
    ]
    diff = between([one for one, _ in both], [other for _, other in both])
    if diff is None:
        return None
    ours, theirs = (
        sum(result.times["time_prefill"] for result in side) for side in zip(*both, strict=True)
    )
    return Candidate(setting, diff, theirs / ours if ours else float("inf"), len(exact))


def _text(candidates: Sequence[Candidate], best: Candidate | None, tolerance: float) -> str:
    within = f"within {tolerance:g} point{'s' * (tolerance != 1)} of exact attention"
    if best is None:
        nearest = max(candidates, key=lambda one: -101 if one.diff.low is None else one.diff.low)
        if nearest.diff.low is None:
            return f"No setting is shown to be {within}: there are too few questions."
        return (
            f"No setting is shown to be {within}. The nearest is {nearest.setting}: "
            f"{_described(nearest)}. More questions make the intervals narrower."
        )
    text = f"{best.setting} is the fastest setting that is {within}: {_described(best)}."
    if best.speed_up <= 1:
        text += " But exact attention is as fast here: take that."
    return text


def _described(one: Candidate) -> str:
    diff = one.diff
    cells = f"{diff.tasks} of {one.of} tasks and lengths" if diff.tasks < one.of else ""
    over = cells or f"{diff.tasks} task{'s' * (diff.tasks > 1)} and lengths"
    over = "one task" if diff.tasks == one.of == 1 else over
    interval = "" if diff.low is None else f" (95%: {diff.low:+.2f} to {diff.high:+.2f})"
    return (
        f"{diff.mean:+.2f} points{interval} over {over}, n = {diff.n}, and {one.speed_up:.2f} "
        "times as fast in phase 1"
    )
