"""A sample whose haystack has no size yet, and the search for the size that fits."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

from star_jax.eval.ruler.sources import Sources
from star_jax.text.prompt import Text


@dataclasses.dataclass(frozen=True)
class Request:
    """What a sample is drafted for.

    length: in tokens, of context, query, answers and `max_new_tokens`. index: of the sample.
    wrap: what stands before the context, and between the question and the answer's prefix.
    wraps_examples: the published scripts know of `wrap`; else a server puts it around their text.
    keys: the words to draw keys from where a task's keys are words; None: RULER's, an adjective
      and a noun of wonderwords.
    """

    length: int
    index: int
    seed: int
    count_tokens: Callable[[Text], int]
    max_new_tokens: int
    wrap: tuple[Text, Text]
    wraps_examples: bool = True
    keys: Sequence[str] | None = None
    sources: Sources = dataclasses.field(default_factory=Sources)


@dataclasses.dataclass(frozen=True)
class Steps:
    """How the published scripts find a size: once for all samples, which then may only shrink.

    The sizes tried are first, first + step, ... up to `most`, and the largest that fits is
    taken. A sample that is longer than the one it was found with goes back by `back`, again and
    again.

    answer: what the search counts besides; the samples are counted without it.
    context_only: neither the query nor what is generated counts.
    beyond: what is wrong if even `most` fits; empty: nothing is, samples are just shorter.
    """

    first: int
    step: int
    back: int
    most: int | None = None
    answer: str = ""
    context_only: bool = False
    beyond: str = ""

    def find(self, count: Callable[[int], int], limit: int, unit: str) -> int:
        """The size for all samples.

        Raises:
          ValueError: not even the first fits, or `beyond`.
        """

        if (tokens := count(self.first)) > limit:
            raise ValueError(_too_short(limit, self.first, unit, tokens))

        def stepped(k: int) -> int:
            n = self.first + k * self.step
            return count(n) if self.most is None or n <= self.most else limit + n - self.most

        size = self.first + self.step * largest(stepped, limit, least=0)[0]
        if self.most is None or size + self.step <= self.most:
            return size
        if self.beyond:
            raise ValueError(self.beyond)
        return self.most if count(self.most) <= limit else size

    def shrunk(self, size: int, count: Callable[[int], int], limit: int, draft: "Draft") -> int:
        """The size of one sample.

        Raises:
          ValueError: it would have to be below the least. The scripts would try for ever.
        """
        while (tokens := count(size)) > limit:
            if size - self.back < draft.least:
                raise ValueError(
                    f"{_too_short(limit, size, draft.unit, tokens)}, and the published scripts "
                    f"take {self.back} off at once"
                )
            size -= self.back
        return size


@dataclasses.dataclass(frozen=True)
class Draft:
    """A sample but for the size of its haystack.

    context: of a size, the text that is read. The same size gives the same text.
    needles: of a size, the spans of what the answers are read from, in characters of the context.
    least: the smallest size that leaves the question with one answer.
    unit: what the size counts, in the plural.
    before: what stands before the context in place of the request's `wrap`.
    steps: how the size is found; None: it is the largest that fits this sample.
    """

    question: str
    answer_prefix: str
    outputs: tuple[str, ...]
    context: Callable[[int], Text]
    least: int
    unit: str
    needles: Callable[[int], Sequence[tuple[int, int]]] = lambda size: ()
    before: Text | None = None
    steps: Steps | None = None


_PROBE = 32  # units, at most; what shows how long one is
_TRIALS = 8  # of sizes that `near` says, before the middle is taken


def largest(
    count: Callable[[int], int], limit: int, *, least: int = 1, unit: str = "lines"
) -> tuple[int, int]:
    """The largest n >= `least` with count(n) <= limit, and that count.

    Counting is tokenising the whole context, so it is done seldom: a short text shows how long
    units are. From then on the next n is where the line through two counts crosses the limit:
    those on its two sides, or the last two below it. Where that does not halve what is left, the
    middle is next.

    Raises:
      ValueError: not even the least fits.
    """
    first = best = count(least)
    if first > limit:
        raise ValueError(_too_short(limit, least, unit, first))
    low, high, over, halve = least, 0, 0, False
    n = least + min(_PROBE, max(1, (limit - first) // 20))
    while not high or high - low > 1:
        tokens, width = count(n), high - low
        slope, is_below = (tokens - best) / (n - low), tokens <= limit
        if is_below:
            low, best = n, tokens
        else:
            high, over = n, tokens
        if high:
            slope = (over - best) / (high - low)
            halve = width > 0 and 2 * (high - low) > width
        # After a count below the limit one more, to have the limit between two neighbours soon.
        n = low + max(1, int(is_below) + int((limit - best) / max(1.0, slope)))
        if high:
            n = (low + high) // 2 if halve else min(n, high - 1)
    return low, best


def largest_by(
    near: Callable[[int], int], count: Callable[[int], int], limit: int, *, least: int, unit: str
) -> tuple[int, int]:
    """As `largest`, but searching with `near`, which is cheap and about as large as `count`.

    By how much the two differ hardly depends on the size, so that two or three counts will do:
    one at the size that `near` says, and that of its neighbour, on the other side of the limit.
    """
    near = functools.cache(near)
    low, best = least, count(least)
    if best > limit:
        return largest(count, limit, least=least, unit=unit)  # says so
    high, shift = 0, best - near(least)
    for trial in itertools.count():
        if high and high - low == 1:
            break
        n, room = low + 1, limit - shift
        if near(n) <= room:
            n = largest(near, room, least=n)[0]
        if high:
            n = min(n, high - 1) if trial < _TRIALS else (low + high) // 2
        tokens = count(n)
        shift = tokens - near(n)
        if tokens <= limit:
            low, best = n, tokens
        else:
            high = n
    return low, best


def _too_short(limit: int, size: int, unit: str, tokens: int) -> str:
    return f"length={limit} is too short: with {size} {unit} there are {tokens} tokens"
