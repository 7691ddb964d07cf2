"""How documents and questions become token ids: in the model's chat template, or as plain text.

A document is the beginning of the first user's message, which ends in the first question. It ends
in one newline: there a token ends, whatever comes next.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from star_jax.text.tokenizer import Tokenizer

_DOCUMENT, _QUESTION = "A document.\n", "A question?"  # stand for those of the user


@runtime_checkable
class Form(Protocol):
    """What is encoded of a document and of questions."""

    name: str

    def document(self, text: str) -> list[int]:
        """The ids that a context begins with."""
        ...

    def more(self, text: str) -> list[int]:
        """The ids of more text, behind a document."""
        ...

    def first(self, question: str) -> list[int]:
        """The ids of a question behind a document, up to where the answer begins."""
        ...

    def next(self, question: str) -> list[int]:
        """The ids of a question behind an answer, up to where the next answer begins."""
        ...


class InTemplate:
    """In the model's chat template, with a system message or without.

    Raises:
      ValueError: the template refuses a system message, or cannot be cut.
    """

    name = "in the model's chat template"

    def __init__(self, tokenizer: Tokenizer, system: str | None = None):
        self._tokenizer, self._system = tokenizer, system
        self._chat(_DOCUMENT, _QUESTION)
        self.next(_QUESTION)  # raises now, not after the first answer

    def document(self, text: str) -> list[int]:
        before, _ = self._chat(f"{text}\n", _QUESTION)
        return self._tokenizer.encode_context(before)

    def more(self, text: str) -> list[int]:
        return self._tokenizer.encode_query(f"{text}\n", after=_DOCUMENT)

    def first(self, question: str) -> list[int]:
        _, after = self._chat(_DOCUMENT, question)
        return self._tokenizer.encode_query(after, after=_DOCUMENT)

    def next(self, question: str) -> list[int]:
        return self._tokenizer.encode_query(self._tokenizer.turn(question, system=self._system))

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether ids begin with the template's special tokens, as its documents do.

        What is between those may be another system message, or the date of another day.
        """
        begin = self._steering(self.document(_DOCUMENT))
        return self._steering(ids)[: len(begin)] == begin

    def _steering(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._tokenizer.special_ids]

    def _chat(self, document: str, question: str) -> tuple[Any, Any]:
        return self._tokenizer.chat(document, question, system=self._system)


class Plain:
    """As text: a question has a line of its own, and its answer begins in the next line."""

    name = "as plain text, each question with a newline behind it"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def document(self, text: str) -> list[int]:
        return self._tokenizer.encode_context(f"{text}\n")

    def more(self, text: str) -> list[int]:
        return self._tokenizer.encode_query(f"{text}\n", after=_DOCUMENT)

    def first(self, question: str) -> list[int]:
        return self._tokenizer.encode_query(f"{question}\n", after=_DOCUMENT)

    def next(self, question: str) -> list[int]:
        return self._tokenizer.encode_query(f"\n{question}\n")
