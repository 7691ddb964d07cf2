"""Samples made to fit a length in tokens: by the size of a haystack, or by cutting a middle out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_jax.eval import ruler
from star_jax.eval.ruler.draft import Draft, largest
from star_jax.runs.jsonl import CHAT, DATE
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt, Text
from star_jax.text.tokenizer import Tokenizer

TEMPLATES = (*sorted(ruler.TEMPLATES), CHAT)  # what data.template may be
GENERATED = "[generated]"  # at the end of a task's name, where its samples are our own
_NONE: Mapping[str, Any] = {}
_CHARACTERS = 8  # of a token, more than texts have on average


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a template has around a question, and how many tokens the whole may have.

    template: its name. before: what it has before the context. after: what it has after the
      question and before the answer's first words, the header of the assistant's turn say.
    length: in tokens: of context, query and answer.
    """

    template: str
    before: Text
    after: Text
    length: int
    max_new_tokens: int
    tokenizer: Tokenizer

    @classmethod
    def make(
        cls, template: str, tokenizer: Tokenizer, *, length: int, max_new_tokens: int
    ) -> "Frame":
        """A frame of one of `TEMPLATES`."""
        return cls(template, *wrap(template, tokenizer), length, max_new_tokens, tokenizer)

    def query(self, question: str, answer_prefix: str) -> Text:
        """A question, and how its answer begins: on a line of its own where no turn ends."""
        between = self.after or ("\n" if question and answer_prefix else "")
        return question + between + answer_prefix

    def count(self, context: Text, *queries: Text) -> int:
        """Tokens of a context with the longest of its queries, an answer and BOS."""
        count = self.tokenizer.count
        bos = self.tokenizer.count_added(self.before + "a")
        return bos + count(context) + max(map(count, queries)) + self.max_new_tokens


def wrap(template: str, tokenizer: Tokenizer) -> tuple[Text, Text]:
    """What a template has before a context, and after a question."""
    if template != CHAT:
        before, after = ruler.TEMPLATES[template]
        return Prompt.template(before), Prompt.template(after)
    head, tail = tokenizer.chat("A", "B", date_string=DATE)
    return Prompt(head.parts[:-1]), Prompt(tail.parts[1:])  # without the user's


def fit(draft: Draft, index: int, frame: Frame, facts: Mapping[str, Any] = _NONE) -> Sample:
    """A draft with as much of its haystack as the frame's length allows.

    facts: what the metric reads beside the answers.

    Raises:
      ValueError: the length holds no haystack.
    """
    query = frame.query(draft.question, draft.answer_prefix)

    def count(size: int) -> int:
        return frame.count(frame.before + draft.context(size), query)

    size, tokens = largest(count, frame.length, least=draft.least, unit=draft.unit)
    shift = len(frame.before)
    needles = tuple((a + shift, b + shift) for a, b in draft.needles(size))
    context = frame.before + draft.context(size)
    return Sample(index, context, query, draft.outputs, needles, tokens, facts)


def cut(head: str, text: str, tail: str, queries: Sequence[Text], frame: Frame) -> Text:
    """The context head + text + tail, without so much of the text's middle that all queries fit.

    Raises:
      ValueError: nothing of the text fits.
    """
    room = frame.length - check_room(head, tail, queries, frame)
    while True:
        part = without_middle(text, room, frame.tokenizer.offsets)
        context = frame.before + head + part + tail
        over = frame.count(context, *queries) - frame.length
        if over <= 0:
            return context
        if over >= room:
            raise ValueError(f"length={frame.length} is too short for the ends of the context")
        room -= over  # tokens may come out differently where the two ends meet


def check_room(head: str, tail: str, queries: Sequence[Text], frame: Frame) -> int:
    """The tokens of a context without its text, with the longest of its queries and an answer.

    Raises:
      ValueError: they leave no room for a token of the text.
    """
    bare = frame.count(frame.before + head + tail, *queries)
    if bare >= frame.length:
        raise ValueError(
            f"length={frame.length} is too short: without any of the context there are {bare} "
            "tokens"
        )
    return bare


def without_middle(
    text: str, tokens: int, offsets: Callable[[str], Sequence[tuple[int, int]]]
) -> str:
    """The first and last tokens of a text, so many in all; the whole text if it has no more.

    tokens: at least 1. offsets: where the tokens of a text lie in it. A text is tokenised only as
      far as it takes: it may be many times as long as what is left of it.
    """
    first, last = tokens // 2, tokens - tokens // 2
    width = _CHARACTERS * (last + 1)
    while 2 * width < len(text):
        ahead, behind = offsets(text[:width]), offsets(text[-width:])
        if min(len(ahead), len(behind)) > last:
            end = ahead[first - 1][1] if first else 0
            return text[:end] + text[len(text) - width + behind[-last][0] :]
        width *= 2
    found = offsets(text)
    if len(found) <= tokens:
        return text
    return text[: found[first - 1][1] if first else 0] + text[found[-last][0] :]
