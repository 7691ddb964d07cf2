"""Documents with needles and a list in them, and what is asked about them, teacher-forced.

The prose is Python's own reference manual, as every Python brings it for its `help`; sentences
alone, without grammar, code and tables.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Callable

from star_jax.eval.ruler import niah, words

NEEDLES = 16  # in a document; each is asked for
NAMES = 24  # of the list; the second half is to follow from the first
CONTINUATION = 128  # tokens of the prose after the document
BEFORE, AFTER = "A list of names: ", "."
ASK_NAMES = "Repeat the list of names."
SYLLABLES = ("ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "po", "ra", "se", "ti", "vo", "zu")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A question, how its answer begins, and the answer. No question: the document goes on."""

    kind: str  # "needle", "copy" or "prose"
    question: str
    begun: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Document:
    text: str
    probes: tuple[Probe, ...]


def document(
    index: int, length: int, count: Callable[[str], int], *, needles: int = NEEDLES
) -> Document:
    """The same whenever it is made: of at most `length` tokens, which `count` counts.

    Raises:
      ValueError: what is asked for does not fit.
    """
    rng = random.Random(f"{index} {length}")
    keys, values, lines = draw_needles(rng, needles)
    names = [_name(rng) for _ in range(NAMES)]
    listed = f"{BEFORE}{', '.join(names)}{AFTER}"

    text, room = sentences(), length - sum(map(count, [listed, *lines]))
    if room < 0:
        raise ValueError(f"{length=} is too short for {needles} needles and {NAMES} names")
    start = rng.randrange(len(text))
    prose: list[str] = []
    for i in range(len(text)):
        sentence = text[(start + i) % len(text)]
        room -= count(f"{sentence} ")
        if room < 0:
            break
        prose.append(sentence)
    else:
        raise ValueError(f"{length=} is more than the text has")
    rest = " ".join(text[(start + len(prose) + i) % len(text)] for i in range(20))
    last = len(prose) - 3  # the document ends with prose, which goes on
    prose.insert(rng.randint(0, last // 2), listed)
    for needle in lines:
        prose.insert(rng.randint(0, last), needle)

    probes = [
        Probe(
            "needle",
            niah.QUESTION.format(kind="number", key=key),
            niah.ANSWER_PREFIX.format(kind="number", key=key).strip(),
            f" {value}",
        )
        for key, value in zip(keys, values, strict=True)
    ]
    half = NAMES // 2
    begun = f"{BEFORE}{', '.join(names[:half])},"
    probes.append(Probe("copy", ASK_NAMES, begun, f" {', '.join(names[half:])}"))
    probes.append(Probe("prose", "", "", f" {rest}"))
    return Document(" ".join(prose), tuple(probes))


def draw_needles(rng: random.Random, count: int) -> tuple[list[str], list[str], list[str]]:
    """Keys, no word of which comes twice, their values, and the sentences that say so."""
    adjectives = rng.sample(words.read("adjectivelist"), count)
    nouns = rng.sample(words.read("nounlist"), count)
    keys = [f"{adjective}-{noun}" for adjective, noun in zip(adjectives, nouns, strict=True)]
    values = [str(rng.randint(10**6, 10**7 - 1)) for _ in keys]
    needles = [
        niah.NEEDLE.format(kind="number", key=key, value=value)
        for key, value in zip(keys, values, strict=True)
    ]
    return keys, values, needles


def _name(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()


@functools.cache
def sentences() -> list[str]:
    """Those of the manual, in order."""
    import pydoc_data.topics

    found: list[str] = []
    for topic in sorted(pydoc_data.topics.topics):
        for paragraph in re.split(r"\n\s*\n", pydoc_data.topics.topics[topic]):
            line = " ".join(paragraph.replace("*", "").replace('"', "").split())
            is_prose = re.match(r"[A-Z][a-z]+ [a-z]", line) and line.endswith(".")
            if is_prose and not re.search(r"::=|>>>|\||__|  ", line) and len(line) > 80:
                found += re.split(r"(?<=[.!?]) (?=[A-Z])", line)
    return list(dict.fromkeys(found))
