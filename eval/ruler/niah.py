"""Needles in a haystack: eight tasks, by what the haystack is and what is hidden and asked.

On purpose different from RULER: keys and values within a sample are distinct, and among essays
each needle has a depth of its own, of all there are.
"""

import dataclasses
import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.ruler import words
from star_jax.eval.ruler.draft import Draft, Request

CONTEXT = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{lines}\n"
)
QUESTION = "What is the special magic {kind} for {key} mentioned in the provided text?"
ANSWER_PREFIX = " The special magic {kind} for {key} mentioned in the provided text is"
MANY_CONTEXT = (
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind}s afterwards.\n{lines}\n"
)
MANY_QUESTION = "What are all the special magic {kind}s for {key} mentioned in the provided text?"
MANY_ANSWER_PREFIX = " The special magic {kind}s for {key} mentioned in the provided text are"
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def draft(rng: random.Random, request: Request, *, haystack: str, kind: str) -> Draft:
    """One needle among lines of "noise" or of other "needles".

    The keys of a "number" are words, those of a "uuid" uuids.
    """
    keys, length, values = request.keys, request.length, _distinct_values(rng, kind)
    names = _distinct_words(rng, keys) if kind == "number" else _uuids(rng)
    key, value, depth = next(names), next(values), rng.random()
    needle = NEEDLE.format(kind=kind, key=key, value=value)
    others = (NEEDLE.format(kind=kind, key=name, value=next(values)) for name in names)
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


@dataclasses.dataclass(frozen=True)
class Needles:
    """What is hidden, and what is asked of it.

    sentences: all needles. answers: which of them hold the outputs, in the order of these.
    """

    sentences: tuple[str, ...]
    answers: tuple[int, ...]
    outputs: tuple[str, ...]
    question: str
    answer_prefix: str
    context: str  # with {lines} where the haystack goes


def in_essays(
    rng: random.Random, request: Request, *, kind: str, keys: int, values: int, queries: int
) -> Draft:
    """Needles between the sentences of essays: `values` for each key, `queries` keys asked."""
    needles = draw(rng, request, kind=kind, keys=keys, values=values, queries=queries)
    order = rng.sample(range(len(needles.sentences)), len(needles.sentences))
    depths = sorted(rng.random() for _ in order)
    return hidden(needles, request, order=order, depths=depths)


def draw(
    rng: random.Random, request: Request, *, kind: str, keys: int, values: int, queries: int
) -> Needles:
    """Keys that are words, each with its values; the keys that are asked for are drawn last."""
    names = list(itertools.islice(_distinct_words(rng, request.keys), keys))
    if len(names) < keys:
        raise ValueError(f"{len(names)} keys are too few: this task needs {keys}")
    held = list(itertools.islice(_distinct_values(rng, kind), keys * values))
    asked = rng.sample(range(keys), queries)
    answers = [key * values + i for key in asked for i in range(values)]
    is_one = queries * values == 1
    shown = [names[key] for key in asked]
    key = ", ".join(shown[:-1]) + ", and " + shown[-1] if queries > 1 else shown[0]
    question = QUESTION if is_one else MANY_QUESTION
    prefix = ANSWER_PREFIX if is_one else MANY_ANSWER_PREFIX
    return Needles(
        sentences=tuple(
            NEEDLE.format(kind=kind, key=names[i // values], value=value)
            for i, value in enumerate(held)
        ),
        answers=tuple(answers),
        outputs=tuple(held[i] for i in answers),
        question=question.format(kind=kind, key=key),
        answer_prefix=prefix.format(kind=kind, key=key),
        context=(CONTEXT if is_one else MANY_CONTEXT).replace("{kind}", kind),
    )


def hidden(
    needles: Needles,
    request: Request,
    *,
    order: Sequence[int],
    depths: Sequence[float],
    gaps: bool = False,
) -> Draft:
    """A haystack of essays: needle order[i] stands at depths[i], a share of the sentences.

    gaps: where nothing stands between two needles, before the first or after the last, there is a
      space still.
    """
    essays = request.sources.essays
    if essays is None:
        raise ValueError("this task hides its needles in essays, and sources has none")
    head, tail = needles.context.split("{lines}")

    def pieces(n: int) -> Iterator[tuple[str, int | None]]:
        """The text in pieces, each with the number of the needle that it is."""
        count, above = essays.sentences(n), 0
        for needle, depth in zip(order, depths, strict=True):
            cut = min(n, essays.start(int(count * depth)))
            yield essays.text(above, cut), None
            yield needles.sentences[needle], needle
            above = cut
        yield essays.text(above, n), None

    def kept(n: int) -> list[tuple[str, int | None]]:
        return [(text, needle) for text, needle in pieces(n) if text or gaps]

    def spans(n: int) -> list[tuple[int, int]]:
        found, at = {}, len(head)
        for text, needle in kept(n):
            found[needle] = (at, at + len(text))
            at += len(text) + 1
        return [found[answer] for answer in needles.answers]

    return Draft(
        question=needles.question,
        answer_prefix=needles.answer_prefix,
        outputs=needles.outputs,
        context=lambda n: head + " ".join(text for text, _ in kept(n)) + tail,
        needles=spans,
        least=1,
        unit="words",
    )


def _number(rng: random.Random) -> str:
    return str(rng.randint(10**6, 10**7 - 1))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


_VALUES: dict[str, Callable[[random.Random], str]] = {"number": _number, "uuid": _uuid}


def _distinct_values(rng: random.Random, kind: str) -> Iterator[str]:
    """Draws a value again that was drawn before: an answer must stand in its own line only."""
    seen: set[str] = set()
    while True:
        value = _VALUES[kind](rng)
        if value not in seen:
            seen.add(value)
            yield value


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
