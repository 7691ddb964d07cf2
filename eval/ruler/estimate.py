"""About how many tokens a text has, from those of its words: to search with, cheaply."""

import collections
from collections.abc import Callable

from star_jax.text.prompt import Text

_MOST = 2**18  # words that are remembered


class Estimate:
    """The sum of the tokens of a text's words, each counted once, with the space before it.

    Tokenizers that never join two words give just so many. Others give some more or less, about
    as many as for another text of the kind.
    """

    def __init__(self, count_tokens: Callable[[Text], int]):
        self._count_tokens = count_tokens
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        words = collections.Counter(str(text).split(" "))
        if len(self._known) > _MOST:
            self._known.clear()
        for word in words.keys() - self._known.keys():
            self._known[word] = self._count_tokens(f" {word}")
        return sum(self._known[word] * times for word, times in words.items())
