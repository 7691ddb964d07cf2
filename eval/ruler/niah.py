"""Needles in a haystack: niah_single_1, niah_multikey_2 and niah_multikey_3.

On purpose different from RULER: keys within a sample are distinct.
"""

import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.ruler import words
from star_jax.eval.ruler.draft import Draft

CONTEXT = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{lines}\n"
)
QUESTION = "What is the special magic {kind} for {key} mentioned in the provided text?"
ANSWER_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def draft(
    rng: random.Random,
    *,
    length: int,
    count_tokens: Callable[[str], int],
    keys: Sequence[str] | None,
    haystack: str,
    kind: str,
) -> Draft:
    """One needle among lines of "noise" or of other "needles".

    The keys of a "number" are words, those of a "uuid" uuids.
    """
    del count_tokens
    value_of = {"number": _number, "uuid": _uuid}[kind]
    names = _distinct_words(rng, keys) if kind == "number" else _uuids(rng)
    key, value, depth = next(names), value_of(rng), rng.random()
    needle = NEEDLE.format(kind=kind, key=key, value=value)
    others = (NEEDLE.format(kind=kind, key=name, value=value_of(rng)) for name in names)
    stream = itertools.repeat(NOISE) if haystack == "noise" else others
    lines: list[str] = []  # grows from the stream as the fit asks for more
    head, tail = CONTEXT.replace("{kind}", kind).split("{lines}")

    def above(n: int) -> str:
        return head + "".join(line + "\n" for line in lines[: int(depth * n)])

    def context(n: int) -> str:
        lines.extend(itertools.islice(stream, max(0, n - len(lines))))
        if len(lines) < n:
            raise ValueError(f"{len(keys or ())} keys are too few at {length=}: give more, or None")
        below = "".join("\n" + line for line in lines[int(depth * n) : n])
        return above(n) + needle + below + tail

    def span(n: int) -> tuple[int, int]:
        return len(above(n)), len(above(n)) + len(needle)

    return Draft(
        question=QUESTION.format(kind=kind, key=key),
        answer_prefix=ANSWER_PREFIX.format(kind=kind, key=key),
        outputs=(value,),
        context=context,
        needles=lambda n: [span(n)],
        least=1,
        unit="lines",
    )


def _number(rng: random.Random) -> str:
    return str(rng.randint(10**6, 10**7 - 1))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _uuids(rng: random.Random) -> Iterator[str]:
    while True:
        yield _uuid(rng)


def _distinct_words(rng: random.Random, keys: Sequence[str] | None) -> Iterator[str]:
    """Draws keys without replacement: the asked key must stand in one line only."""
    if keys is not None:
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"{len(keys)} keys, {len(set(keys))} of them distinct: none, or twice")
        yield from rng.sample(list(keys), len(keys))
        return
    adjectives, nouns = words.read("adjectivelist"), words.read("nounlist")
    seen: set[str] = set()
    while True:
        key = f"{rng.choice(adjectives)}-{rng.choice(nouns)}"
        if key not in seen:
            seen.add(key)
            yield key
