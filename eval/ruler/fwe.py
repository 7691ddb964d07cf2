"""Frequent words extraction: the three most frequent of made-up words, dots aside.

Counts follow a zeta distribution (alpha = 2) and are not random; the dots have the first
rank. As in RULER since June 2025, and not in Star Attention's copy, the question and the
answer count towards the length.
"""

import itertools
import math
import random
from collections.abc import Sequence

from star_jax.eval.ruler import words
from star_jax.eval.ruler.draft import Draft, Request

CONTEXT = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. {words}\n"
)
QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
ANSWER_PREFIX = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)
DOTS, LETTERS, ANSWERS = "...", 6, 3
_ZETA_2 = math.pi**2 / 6


def draft(rng: random.Random, request: Request) -> Draft:
    """Words of six letters, one in fifty tokens; which of them is asked for is the draw."""
    vocabulary = _vocabulary(rng, max(ANSWERS + 2, request.length // 50))
    order = rng.random()
    least = next(n for n in range(1, 10**4) if _clear(counts(n, len(vocabulary))))

    def context(n: int) -> str:
        times = counts(n, len(vocabulary))
        text = [word for word, c in zip(vocabulary, times, strict=True) for _ in range(c)]
        random.Random(f"{order} {n}").shuffle(text)
        return CONTEXT.format(words=" ".join(text))

    return Draft(
        question=QUESTION,
        answer_prefix=ANSWER_PREFIX,
        outputs=tuple(vocabulary[1 : 1 + ANSWERS]),
        context=context,
        least=least,
        unit="words",
    )


def _vocabulary(rng: random.Random, size: int) -> list[str]:
    text = CONTEXT + QUESTION + ANSWER_PREFIX
    found = {DOTS: None}
    while len(found) < size:
        word = words.coded(rng, LETTERS)
        if word not in text:
            found[word] = None
    return list(found)


def counts(total: int, size: int) -> list[int]:
    """How often the word of each rank occurs, of about `total` words."""
    return [int(total / (rank * rank * _ZETA_2)) for rank in range(1, size + 1)]


def _clear(times: Sequence[int]) -> bool:
    """Whether the asked words are told apart from each other and from all others."""
    return all(a > b for a, b in itertools.pairwise(times[1 : 2 + ANSWERS]))
