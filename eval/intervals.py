"""95% intervals of mean scores and of their differences, which say what few questions can say.

A score is a share, 0 to 1, and what is reported is the mean of n of them.

- Scores that are all 0 or 1 are binomial: Wilson's interval (E. B. Wilson, 1927). It holds in 95%
  of cases on average, and in fewer where almost no answer, or almost every one, is wrong.
- Scores with fractions between, as where parts of an answer were found, vary at most as much as
  0s and 1s of the same mean, so an interval for those is wide enough. It is the one of Clopper
  and Pearson (1934), which is never too short, for the mean as a share of n trials. (Wilson's is
  an approximation that leans on the scores' being 0 and 1.)
- A difference to exact attention is paired: the same questions were asked. With 0s and 1s it is
  Newcombe's interval for paired proportions (R. G. Newcombe, Statistics in Medicine 17, 1998,
  pages 2635 to 2650, method 10), made of Wilson's intervals of both means and of the correlation
  between them. A spread of the differences, as a normal interval takes it, is 0 where all
  questions tie; n ties do not say that there is no difference, but that it is rare.
- Differences with fractions have no such table. Their interval is made of Clopper and Pearson's
  of how far questions rise and of how far they fall, each at 97.5%, so that both hold at 95%
  (Bonferroni): wide, but never too short.

No interval has width 0, whatever the scores.
"""

import functools
import math
from collections.abc import Sequence

_LEVEL = 0.95
Interval = tuple[float, float]


def of_mean(scores: Sequence[float | int]) -> Interval:
    """The interval of the mean of scores in [0, 1], of which there is at least one."""
    if all(score in (0, 1) for score in scores):
        return _wilson(sum(scores), len(scores))
    return _exact(math.fsum(scores), len(scores), _LEVEL)


def of_difference(scores: Sequence[float | int], others: Sequence[float | int]) -> Interval:
    """The interval of the mean of score - other, in [-1, 1], over the same questions."""
    n = len(scores)
    if all(score in (0, 1) for score in (*scores, *others)):
        return _newcombe(scores, others)
    rises = math.fsum(max(0.0, a - b) for a, b in zip(scores, others, strict=True))
    falls = math.fsum(max(0.0, b - a) for a, b in zip(scores, others, strict=True))
    return of_rise_and_fall(rises / n, falls / n, n)


def of_rise_and_fall(rise: float, fall: float, n: float | int) -> Interval:
    """The interval of rise - fall: how far n questions rise and fall, each on average."""
    level = (1 + _LEVEL) / 2
    (rise_low, rise_high), (fall_low, fall_high) = (
        _exact(mean * n, n, level) for mean in (rise, fall)
    )
    return rise_low - fall_high, rise_high - fall_low


def of_weighted_mean(mean: float, n: float) -> Interval:
    """The interval of a mean over tasks that is worth n scores; n need not be whole."""
    return _exact(mean * n, n, _LEVEL)


@functools.cache  # rows repeat each other's
def _wilson(successes: float | int, n: int) -> Interval:
    from scipy import stats  # slow to import

    found = stats.binomtest(int(successes), n).proportion_ci(_LEVEL, method="wilson")
    return float(found.low), float(found.high)


@functools.cache
def _exact(total: float | int, n: float | int, level: float) -> Interval:
    """Clopper and Pearson's, of a total that need not be whole."""
    from scipy import stats

    total, tail = min(max(total, 0.0), float(n)), (1 - level) / 2
    low = 0.0 if total <= 0 else float(stats.beta.ppf(tail, total, n - total + 1))
    high = 1.0 if total >= n else float(stats.beta.isf(tail, total + 1, n - total))
    return low, high


def _newcombe(scores: Sequence[float | int], others: Sequence[float | int]) -> Interval:
    n = len(scores)
    ours, theirs = sum(scores) / n, sum(others) / n
    (ours_low, ours_high), (theirs_low, theirs_high) = (
        _wilson(sum(each), n) for each in (scores, others)
    )
    pairs = list(zip(scores, others, strict=True))
    both, neither = pairs.count((1, 1)), pairs.count((0, 0))
    up, down = pairs.count((1, 0)), pairs.count((0, 1))
    spread = math.sqrt((both + up) * (down + neither) * (both + down) * (up + neither))
    agreement = float(both * neither - up * down)
    if agreement > 0:  # less half a question: method 10's correction for continuity
        agreement = max(agreement - n / 2, 0.0)
    correlation = agreement / spread if spread else 0.0

    def half(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = ours - theirs
    low = difference - half(ours - ours_low, theirs_high - theirs)
    high = difference + half(ours_high - ours, theirs - theirs_low)
    return max(-1.0, low), min(1.0, high)
