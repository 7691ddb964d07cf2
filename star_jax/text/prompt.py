"""Text that remembers which of its parts a template wrote, and which a user did."""

import itertools
from collections.abc import Iterator
from typing import Any

Text = Any  # a str, all of it a user's, or a Prompt; other types are refused by name


class Prompt(str):
    """Text of a template and of its users: a str, whose parts know who wrote them.

    parts: (text, whether a template wrote it). Where a template spells a special token, it is
      that token; where a user does, it is text like any other. A sum keeps the parts; what
      methods of str return is a str, and so a user's.
    """

    parts: tuple[tuple[str, bool], ...]

    def __new__(cls, parts: tuple[tuple[str, bool], ...]) -> "Prompt":
        self = super().__new__(cls, "".join(text for text, _ in parts))
        self.parts = parts
        return self

    @classmethod
    def template(cls, text: str) -> "Prompt":
        """A template's text: special tokens that it spells are those tokens."""
        return cls(((text, True),))

    @classmethod
    def of(cls, text: Text, what: str, *, special: bool = False) -> "Prompt":
        """`text` as a Prompt; a str is a user's, or with `special` a template's.

        Raises:
          ValueError: it is neither str nor Prompt, or no valid text. It calls it `what`.
        """
        if not isinstance(text, str):
            raise ValueError(f"{what} takes one text (str), not {type(text).__name__}")
        prompt = text if isinstance(text, Prompt) else cls(((text, special),))
        if special:
            prompt = cls.template(str(prompt))
        try:
            str(prompt).encode()
        except UnicodeEncodeError as e:  # half a surrogate pair
            raise ValueError(f"{what} takes valid text: {e.reason} at {e.start}") from e
        return prompt

    def users(self) -> Iterator[tuple[int, int]]:
        """Where the users' parts lie in the text, as (start, end)."""
        ends = itertools.accumulate(len(text) for text, _ in self.parts)
        for (text, is_template), end in zip(self.parts, ends, strict=True):
            if text and not is_template:
                yield end - len(text), end

    def __add__(self, other: str) -> "Prompt":
        return Prompt(_parts(self) + _parts(other))

    def __radd__(self, other: str) -> "Prompt":
        return Prompt(_parts(other) + _parts(self))


def _parts(text: str) -> tuple[tuple[str, bool], ...]:
    parts = text.parts if isinstance(text, Prompt) else ((text, False),)
    return tuple(part for part in parts if part[0])


def common(a: str, b: str) -> int:
    """The length of the longest beginning that both have."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
