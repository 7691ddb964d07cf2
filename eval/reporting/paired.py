"""Paired differences: the same questions, answered in two ways.

The mean difference is over tasks, each of which counts alike, however many questions it has. Its
95% interval is a percentile bootstrap (B. Efron, 1979): questions are drawn anew within each task,
with their differences, and the bounds are quantiles of the means that come of it.

Where fewer than `FEWEST` questions differ, or a task has fewer, the bootstrap has next to nothing
to draw: it finds no width at all where all questions of each task differ alike, as a single one
does. The interval is then the one of `eval.intervals`: of one task that of its paired scores, of
several the one made of Clopper and Pearson's, for as many questions as the tasks' weights leave:
(sum of w)^2 / (sum of w^2).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from star_jax.eval import intervals

RESAMPLES = 10_000
FEWEST = 10
_SEED = 0
_TAILS = (0.025, 0.975)

Pairs = Sequence[tuple[float, float]]  # of one task: a question's two scores


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference, first less second, with its interval; all as shares of 1.

    low, high: None for fewer than two questions. n: questions. tasks: over which the mean goes.
    is_resampled: whether the interval is the bootstrap's.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    tasks: int
    is_resampled: bool


def difference(tasks: Sequence[Pairs]) -> Difference | None:
    """Of the pairs of each task; None where there is none."""
    tasks = [pairs for pairs in tasks if pairs]
    if not tasks:
        return None
    each = [np.subtract(*np.asarray(pairs, float).T) for pairs in tasks]
    mean, n = float(np.mean([one.mean() for one in each])), sum(map(len, each))
    if n < 2:
        return Difference(mean, None, None, n, len(tasks), False)
    differ = sum(int(np.count_nonzero(one)) for one in each)
    varies = any(np.ptp(one) > 0 for one in each)
    is_resampled = differ >= FEWEST and min(map(len, each)) >= FEWEST and varies
    low, high = _bootstrap(each) if is_resampled else _few(tasks, each)
    return Difference(mean, low, high, n, len(tasks), is_resampled)


def _bootstrap(each: Sequence[np.ndarray]) -> tuple[float, float]:
    """Quantiles of resampled means.

    A resample of n questions is how often each of their few values is drawn: multinomial counts.
    """
    rng = np.random.default_rng(_SEED)
    total = np.zeros(RESAMPLES)
    for one in each:
        values, counts = np.unique(one, return_counts=True)
        drawn = rng.multinomial(len(one), counts / len(one), size=RESAMPLES)
        total += drawn @ values / len(one)
    low, high = np.quantile(total / len(each), _TAILS)
    return float(low), float(high)


def _few(tasks: Sequence[Pairs], each: Sequence[np.ndarray]) -> tuple[float, float]:
    if len(tasks) == 1:
        return intervals.of_difference(*zip(*tasks[0], strict=True))
    rise = float(np.mean([np.maximum(one, 0).mean() for one in each]))
    fall = float(np.mean([np.maximum(-one, 0).mean() for one in each]))
    return intervals.of_rise_and_fall(rise, fall, effective(list(map(len, each))))


def effective(counts: Sequence[int]) -> float:
    """How many questions a mean over tasks is worth, which have these numbers of them."""
    return len(counts) ** 2 / sum(1 / count for count in counts)
