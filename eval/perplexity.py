"""The perplexity of a cell, its interval, and its difference to exact attention's.

It is exp(r) for r = (sum of -log p) / (number of tokens), over the reference answers of all
questions. Questions are what is drawn, and r is a ratio of two sums over them. Its spread is that
of the residuals -log p - r * tokens (the delta method for a ratio; W. G. Cochran, Sampling
Techniques, 1977, chapter 6), and with Student's t it gives a 95% interval of r, and so of exp(r).

The difference of two perplexities is paired. To first order it is the sum, over the same
questions, of P * (residual) - P' * (residual'), so what both find hard does not widen it.
"""

import math
from collections.abc import Sequence

from star_jax.eval.intervals import Interval

_LEVEL = 0.95


def of(logprobs: Sequence[float], counts: Sequence[int]) -> float:
    """exp(-sum/sum), of the log-probabilities and numbers of tokens of one text or more."""
    return _exp(-math.fsum(logprobs) / sum(counts))


def interval(logprobs: Sequence[float], counts: Sequence[int]) -> Interval | None:
    """The 95% interval of `of`; None of one text alone."""
    if len(counts) < 2:
        return None
    rate = -math.fsum(logprobs) / sum(counts)
    half = _half(_residuals(logprobs, counts), sum(counts))
    return _exp(rate - half), _exp(rate + half)


def difference(
    logprobs: Sequence[float], others: Sequence[float], counts: Sequence[int]
) -> tuple[float, Interval | None]:
    """How much higher the perplexity is than that of `others`, and the paired 95% interval."""
    ours, theirs = of(logprobs, counts), of(others, counts)
    if len(counts) < 2:
        return ours - theirs, None
    pairs = zip(_residuals(logprobs, counts), _residuals(others, counts), strict=True)
    half = _half([ours * a - theirs * b for a, b in pairs], sum(counts))
    return ours - theirs, (ours - theirs - half, ours - theirs + half)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _residuals(logprobs: Sequence[float], counts: Sequence[int]) -> list[float]:
    rate = -math.fsum(logprobs) / sum(counts)
    return [-value - rate * count for value, count in zip(logprobs, counts, strict=True)]


def _half(residuals: Sequence[float], tokens: int) -> float:
    """Half the width of an interval of a sum of residuals, which has mean 0, by the tokens."""
    from scipy import stats  # slow to import

    n = len(residuals)
    variance = n / (n - 1) * math.fsum(one**2 for one in residuals)
    return float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * math.sqrt(variance) / tokens
