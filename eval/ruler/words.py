"""Words to draw from: those that the wonderwords package ships, and made-up ones."""

import functools
import importlib.resources
import random
import string
from collections.abc import Iterator

_LISTS = ("nounlist", "adjectivelist", "verblist")


@functools.cache
def read(name: str) -> tuple[str, ...]:
    """The words of a list of wonderwords, sorted: "adjectivelist", "nounlist", "verblist"."""
    asset = importlib.resources.files("wonderwords") / "assets" / f"{name}.txt"
    return tuple(sorted(set(asset.read_text(encoding="utf-8").split("\n")) - {""}))


@functools.cache
def every() -> tuple[str, ...]:
    """All words of wonderwords, those with a space in them too, sorted."""
    return tuple(sorted({word.rstrip() for name in _LISTS for word in read(name)}))


@functools.cache
def single() -> tuple[str, ...]:
    """All words of wonderwords that have no space in them, sorted."""
    found = {word.strip() for name in _LISTS for word in read(name)}
    return tuple(sorted(word for word in found if " " not in word))


def coded(rng: random.Random, letters: int) -> str:
    """A word of so many random lower-case letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=letters))


def made_up(rng: random.Random) -> Iterator[str]:
    """Words of three or four syllables, without end; some come twice."""
    while True:
        syllables = rng.choices("bdfgklmnprstvz", k=rng.randint(3, 4))
        yield "".join(consonant + rng.choice("aeiou") for consonant in syllables)
