"""Common words extraction: which ten words of a numbered list stand there most often.

Common words stand there 30 times each and uncommon ones 3 times, as in RULER and in the
paper's figures. On purpose different from RULER: no common word is a part of another word of
the prompt, or the metric, which looks for parts of the answer, would count it where it was
not meant; no word of the example is in the list; words with a space are left out; and lists
that need more words than wonderwords has go on with made-up ones. Below 4096 tokens RULER has
6 times, once and a smaller example; below 2048, where that does not fit with every tokenizer,
there are 3 times, once and no example.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from star_jax.eval.ruler import words
from star_jax.eval.ruler.draft import Draft, Request

CONTEXT = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{words}\n"
)
QUESTION = "Question: What are the 10 most common words in the above list?"
ANSWER_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
COMMON = 10


def draft(rng: random.Random, request: Request) -> Draft:
    """A solved example, then a list of ten common words and a number of uncommon ones."""
    if request.length >= 4096:
        often, seldom, example_words, example_often, example_seldom = 30, 3, 40, 10, 3
    elif request.length >= 2048:
        often, seldom, example_words, example_often, example_seldom = 6, 1, 20, 3, 1
    else:
        often, seldom, example_words, example_often, example_seldom = 3, 1, 0, 0, 0
    common, others = _draw(rng)
    example = ""
    if example_words:
        shown, shown_others = _split_example(others, example_words)
        numbered = _numbered(rng.random(), shown, example_often, shown_others, example_seldom)
        solution = " ".join(f"{i}. {word}" for i, word in enumerate(shown, 1))
        example = CONTEXT.format(words=numbered) + QUESTION + ANSWER_PREFIX + f" {solution}\n"
    order = rng.random()
    uncommon: list[str] = []  # grows from the others as the fit asks for more

    def context(n: int) -> str:
        uncommon.extend(itertools.islice(others, max(0, n - len(uncommon))))
        numbered = _numbered(order, common, often, uncommon[:n], seldom)
        return example + CONTEXT.format(words=numbered)

    return Draft(
        question=QUESTION,
        answer_prefix=ANSWER_PREFIX,
        outputs=tuple(common),
        context=context,
        least=3,
        unit="uncommon words",
    )


def _numbered(
    order: float, common: Sequence[str], often: int, uncommon: Sequence[str], seldom: int
) -> str:
    listed = [*common] * often + [*uncommon] * seldom
    random.Random(f"{order} {len(listed)}").shuffle(listed)
    return " ".join(f"{i}. {word}" for i, word in enumerate(listed, 1))


def _split_example(others: Iterator[str], count: int) -> tuple[list[str], list[str]]:
    drawn = list(itertools.islice(others, count))
    return drawn[:COMMON], drawn[COMMON:]


def _draw(rng: random.Random) -> tuple[list[str], Iterator[str]]:
    """Common words, and without end others that hold none of them."""
    pool = words.single()
    drawn = rng.sample(pool, len(pool))
    text = (CONTEXT + QUESTION + ANSWER_PREFIX).lower()
    common: list[str] = []
    for word in drawn:
        if len(common) == COMMON:
            break
        lower = word.lower()
        if lower not in text and not any(lower in c or c in lower for c in map(str.lower, common)):
            common.append(word)
    return common, _others(rng, drawn, common)


def _others(rng: random.Random, drawn: Sequence[str], common: Sequence[str]) -> Iterator[str]:
    parts = [word.lower() for word in common]
    seen: set[str] = set()
    for word in itertools.chain(drawn, words.made_up(rng)):
        lower = word.lower()
        if lower not in seen and not any(part in lower for part in parts):
            seen.add(lower)
            yield word
