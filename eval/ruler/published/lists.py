"""Common words and frequent words, as published: one shuffling for all samples."""

import random
import string

from star_jax.eval.ruler import cwe, fwe, words
from star_jax.eval.ruler.draft import Draft, Request, Steps
from star_jax.eval.ruler.published.scripts import Scripts, shuffled
from star_jax.text.prompt import Text

_STEP = 10  # words


def common_words(rng: random.Random, request: Request, *, scripts: Scripts) -> Draft:
    """A solved example, chat template and all, then the list.

    The words of the example and of the list are drawn apart, and may be the same.
    """
    is_long = request.length >= 4096
    pool = words.every()
    before, between = request.wrap if request.wraps_examples else ("", "")
    drawn = rng.sample(pool, 40 if is_long else 20)
    example_list = _numbered(drawn, (10, 3) if is_long else (3, 1), request.seed)
    # Star Attention's scripts have no space before the example's answer.
    space = "" if scripts.is_linear else " "
    example: Text = cwe.CONTEXT.format(words=example_list) + cwe.QUESTION + between
    example = example + cwe.ANSWER_PREFIX + space + _answer(drawn) + "\n" + before
    listed = rng.sample(pool, len(pool))
    times = (30, 3) if is_long else (6, 1)
    beyond = (
        f"length={request.length}: RULER's scripts go on with a list of words that is not shipped "
        f"where the {len(pool)} of wonderwords are too few; data.compat=exact goes on with made-up "
        "words"
    )
    return Draft(
        question=cwe.QUESTION,
        answer_prefix=cwe.ANSWER_PREFIX,
        outputs=tuple(listed[: cwe.COMMON]),
        context=lambda n: (
            example + cwe.CONTEXT.format(words=_numbered(listed[:n], times, request.seed))
        ),
        least=cwe.COMMON,
        unit="words",
        steps=scripts.steps(
            _STEP,
            answer=" " + _answer(listed),
            most=len(pool),
            beyond=beyond if scripts.repeats else "",
        ),
    )


def frequent_words(rng: random.Random, request: Request, *, scripts: Scripts) -> Draft:
    """Words of six letters; in Star Attention's scripts the context alone is fitted."""
    room = request.length if scripts.is_linear else request.length - request.max_new_tokens
    size, step = room // 50, room // 32
    if size < fwe.ANSWERS + 2:
        raise ValueError(f"length={request.length} is too short: there are {size} coded words")
    found: set[str] = set()
    while len(found) < size:
        found.add("".join(rng.choices(string.ascii_lowercase, k=fwe.LETTERS)))
    vocabulary = [fwe.DOTS, *shuffled(sorted(found), request.seed)[1:]]

    def context(n: int) -> str:
        counts = fwe.counts(n, size)
        text = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
        return fwe.CONTEXT.format(words=" ".join(shuffled(text, request.seed)))

    first = room // fwe.LETTERS
    return Draft(
        question=fwe.QUESTION,
        answer_prefix=fwe.ANSWER_PREFIX,
        outputs=tuple(vocabulary[1 : 1 + fwe.ANSWERS]),
        context=context,
        least=step,
        unit="words",
        steps=Steps(first=first, step=step, back=step, context_only=scripts.is_linear),
    )


def _numbered(drawn: list[str], times: tuple[int, int], seed: int) -> str:
    """The first ten words so often, and the others so seldom."""
    often, seldom = times
    listed = drawn[: cwe.COMMON] * often + drawn[cwe.COMMON :] * seldom
    return " ".join(f"{i}. {word}" for i, word in enumerate(shuffled(listed, seed), 1))


def _answer(drawn: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(drawn[: cwe.COMMON], 1))
