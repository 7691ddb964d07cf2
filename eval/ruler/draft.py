"""A sample whose haystack has no size yet, and the search for the size that fits."""

import dataclasses
import math
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Draft:
    """A sample but for the size of its haystack.

    context: of a size, the text that is read. The same size gives the same text.
    needles: of a size, the spans of the asked needles in characters of the context.
    least: the smallest size that leaves the question with one answer.
    unit: what the size counts, in the plural.
    """

    question: str
    answer_prefix: str
    outputs: tuple[str, ...]
    context: Callable[[int], str]
    least: int
    unit: str
    needles: Callable[[int], Sequence[tuple[int, int]]] = lambda size: ()


def largest(
    count: Callable[[int], int], limit: int, *, least: int = 1, unit: str = "lines"
) -> tuple[int, int]:
    """The largest n >= `least` with count(n) <= limit, and that count.

    Counting is tokenising the whole context, so it is done seldom: units are about equally
    long, and interpolation aims just above the limit after a count below it, and the other
    way round. Where that does not halve what is left, the middle is next.

    Raises:
      ValueError: not even the least fits.
    """
    first = best = count(least)
    if first > limit:
        raise ValueError(
            f"length={limit} is too short: with {least} {unit} there are {first} tokens"
        )
    low, high, over, per_unit = least, None, 0, 20.0
    above, halve = 0, False
    while high is None or high - low > 1:
        n = low + max(1, above + int((limit - best) / per_unit))
        if high is not None:
            n = (low + high) // 2 if halve else min(n, high - 1)
        tokens, width = count(n), math.inf if high is None else high - low
        above = int(tokens <= limit)
        if above:
            low, best = n, tokens
        else:
            high, over = n, tokens
        rise, run = (best - first, low - least) if high is None else (over - best, high - low)
        per_unit = max(1.0, rise / run)
        halve = high is not None and 2 * (high - low) > width
    return low, best
