"""Prose as a haystack: so many words of it, with sentences to put needles between."""

import bisect
import itertools
import re

_ENDS = re.compile("""[.!?]['")\\]\u201d\u2019]*$""")


class Essays:
    """The words of a text in order, and over again where they run out.

    A sentence ends at a full stop, a question mark or an exclamation mark, quotes and brackets
    behind it, if no lower-case letter follows. The published scripts ask NLTK's Punkt, which
    knows abbreviations too: that moves where a needle may stand by a word or two.
    """

    def __init__(self, text: str):
        """Raises ValueError for a text without words."""
        self.words = text.split()
        if not self.words:
            raise ValueError("there are no words in it")
        followers = itertools.chain(self.words[1:], ["."])
        self._ends = [
            end
            for end, (word, after) in enumerate(zip(self.words, followers, strict=True), 1)
            if end == len(self.words) or (_ENDS.search(word) and not after[0].islower())
        ]

    def text(self, start: int, stop: int) -> str:
        """Words `start` to `stop`, with a space between two."""
        whole = len(self.words)
        rounds = range(start // whole, -(-stop // whole))
        parts = (self.words[max(0, start - r * whole) : stop - r * whole] for r in rounds)
        return " ".join(itertools.chain.from_iterable(parts))

    def sentences(self, size: int) -> int:
        """How many sentences the first `size` words are; the last may lack its end."""
        rounds, rest = divmod(size, len(self.words))
        full = bisect.bisect_right(self._ends, rest)
        is_cut = rest > (self._ends[full - 1] if full else 0)
        return rounds * len(self._ends) + full + is_cut

    def start(self, sentence: int) -> int:
        """The number of the word with which a sentence begins; both count from 0."""
        rounds, rest = divmod(sentence, len(self._ends))
        return rounds * len(self.words) + (self._ends[rest - 1] if rest else 0)
