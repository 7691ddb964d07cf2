"""Which setting to take: the fastest one that is as good as exact attention, within a tolerance."""

import dataclasses
from collections.abc import Mapping, Sequence

from star_jax.eval.reporting.answers import Run
from star_jax.eval.reporting.paired import Difference
from star_jax.eval.reporting.results import Result, Where, between, fullest

_ROUNDING = 1e-9  # points: of bounds that stand at the tolerance itself


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting beside exact attention, over the tasks and lengths that both have.

    speed_up: of phase 1: exact attention's seconds by the setting's, medians of tasks and lengths
    added up. Where several rows are exact, the fastest of each task and length counts. of: how many
    tasks and lengths exact attention has. is_complete: the setting has answers to all questions
    that exact attention has answers to.
    """

    setting: str
    diff: Difference
    speed_up: float
    of: int
    is_complete: bool

    def is_within(self, tolerance: float) -> bool:
        low = self.diff.low
        return self.is_complete and low is not None and low >= -tolerance - _ROUNDING


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to take in a run. text: in words. best: None where no setting qualifies.

    candidates: the complete ones first, the fastest first.
    """

    run: Run
    candidates: Sequence[Candidate]
    best: Candidate | None
    text: str


@dataclasses.dataclass(frozen=True)
class _Exact:
    """Exact attention: its results of all rows, and what others are held to.

    questions: with a score, by task and length. fastest: of its rows, by task and length.
    """

    results: Sequence[Result]
    questions: Mapping[Where, int]
    fastest: Mapping[Where, Result]

    @property
    def names(self) -> str:
        """The rows that are the fastest of a task and length."""
        return ", ".join(dict.fromkeys(one.cell.name for one in self.fastest.values()))


def advise(run: Run, found: Sequence[Result], *, tolerance: float) -> Advice:
    """The fastest setting whose paired 95% lower bound is within `tolerance` points of exact.

    Settings are ranked only if they are complete: so all are of the same questions.
    """
    scored = [one for one in found if one.cell.is_share and one.score is not None]
    exact = _exact([one for one in scored if one.is_exact])
    settings: dict[str, list[Result]] = {}
    for result in scored:
        for setting in () if result.is_exact else result.settings:
            settings.setdefault(setting, []).append(result)
    candidates = [
        candidate
        for setting, some in settings.items()
        if (candidate := _candidate(setting, some, exact))
    ]
    if not candidates:
        return Advice(run, (), None, f"No recommendation: {_nothing(found, exact)}.")
    candidates.sort(key=lambda one: (not one.is_complete, -one.speed_up))
    best = next((one for one in candidates if one.is_within(tolerance)), None)
    complete = [one for one in candidates if one.is_complete]
    text = _text(complete, best, tolerance, exact.names)
    if incomplete := settings.keys() - {one.setting for one in complete}:
        names = ", ".join(setting for setting in settings if setting in incomplete)
        text += f" Incomplete, and so not ranked: {names}."
    return Advice(run, candidates, best, text)


def _exact(results: Sequence[Result]) -> _Exact:
    cells = fullest(one.cell for one in results)
    questions = {
        where: sum(answer["score"] is not None for answer in cell.answers)
        for where, cell in cells.items()
    }
    fastest: dict[Where, Result] = {}
    for one in results:
        rival = fastest.get(where := (one.cell.task, one.cell.length))
        if rival is None or one.times["time_prefill"] < rival.times["time_prefill"]:
            fastest[where] = one
    return _Exact(results, questions, fastest)


def _nothing(found: Sequence[Result], exact: _Exact) -> str:
    """Why there is no candidate."""
    if not any(one.is_exact for one in found):
        return "no row is exact attention"
    if exact.results and all(one.is_exact for one in found):
        return "exact attention has no other row beside it"
    return "there are no scores to compare"


def _candidate(setting: str, some: Sequence[Result], exact: _Exact) -> Candidate | None:
    both = [
        (one, exact.fastest[where])
        for one in some
        if (where := (one.cell.task, one.cell.length)) in exact.fastest
    ]
    diff = between([one for one, _ in both], exact.results)
    if diff is None:
        return None
    ours, theirs = (
        sum(result.times["time_prefill"] for result in side) for side in zip(*both, strict=True)
    )
    speed_up = theirs / ours if ours else float("inf")
    is_complete = diff.n == sum(exact.questions.values())  # a task and length has no more pairs
    return Candidate(setting, diff, speed_up, len(exact.questions), is_complete)


def _text(
    complete: Sequence[Candidate], best: Candidate | None, tolerance: float, exact: str
) -> str:
    """exact: the names of its fastest rows."""
    within = f"within {tolerance:g} point{'s' * (tolerance != 1)} of exact attention"
    if not complete:
        return "No recommendation: no setting has answers to all that exact attention has."
    if best is None:
        nearest = max(complete, key=lambda one: -101 if one.diff.low is None else one.diff.low)
        if nearest.diff.low is None:
            return f"No setting is shown to be {within}: there are too few questions."
        return (
            f"No setting is shown to be {within}. The nearest is {nearest.setting}: "
            f"{_described(nearest)}. More questions make the intervals narrower."
        )
    text = f"{best.setting} is the fastest setting that is {within}: {_described(best)}."
    if best.speed_up <= 1:
        text += f" But exact attention ({exact}) is as fast or faster: take that."
    return text


def _described(one: Candidate) -> str:
    """Of a complete one."""
    diff = one.diff
    over = "one task" if diff.tasks == 1 else f"{diff.tasks} tasks and lengths"
    interval = "" if diff.low is None else f" (95%: {diff.low:+.2f} to {diff.high:+.2f})"
    return (
        f"{diff.mean:+.2f} points{interval} over {over}, n = {diff.n}, and {one.speed_up:.2f} "
        "times as fast in phase 1"
    )
