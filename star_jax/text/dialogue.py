"""Whole dialogues in a model's chat template, where users' text is told from the template's."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from star_jax.json_files import shown
from star_jax.text import chat
from star_jax.text.prompt import Prompt

ROLES = ("system", "user", "assistant")
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}
_FIRST, _ANSWER = "A question.", "An answer."  # stand for those of an earlier turn

Message = Mapping[str, str]  # "role" and "content"


def check(messages: Any, system: Any) -> list[Message]:
    """The messages, the system message first; raises ValueError for what is no dialogue."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError("messages must be a list of {'role', 'content'}, at least one")
    for i, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise ValueError(f"message {i} must have a 'role' and a 'content', and nothing else")
        if message["role"] not in ROLES:
            raise ValueError(
                f"message {i}: role={shown(message['role'])} must be one of {', '.join(ROLES)}"
            )
        Prompt.of(message["content"], f"message {i}")
    if system is None:
        return list(messages)
    Prompt.of(system, "system")
    if messages[0]["role"] == "system":
        raise ValueError("the messages begin with a system message, and `system` is given too")
    return [{"role": "system", "content": system}, *messages]


def check_variables(
    variables: Mapping[str, Any], *, names: Mapping[str, str], special: Iterable[str]
) -> None:
    """Refuses variables that a template gets anyway, no plain values, and spelled special tokens.

    They become the template's text: what a client sends must not steer the model. `names` are
    variables, too: `bos_token` and so on.
    """
    for name, value in variables.items():
        if name in _GIVEN or name in names:
            raise ValueError(f"{name} is given to the template anyway, and cannot be set")
        if not isinstance(value, str | bool | int | float | None):
            raise ValueError(f"{name}={shown(value)} must be a text, a number or a boolean")
        if isinstance(value, str):
            Prompt.of(value, name)
            if any(chat.folded(token) in chat.folded(value) for token in special):
                raise ValueError(f"{name}={shown(value)} spells a special token")


def render(
    template: str | None, messages: Sequence[Message], variables: Mapping[str, Any]
) -> Prompt:
    """The messages in a template, with the header of the next answer.

    Raises:
      ValueError: there is no template, it fails, or changes, drops or repeats a message.
    """
    return _prompt(_pieces(template, messages, variables))


def turn(
    template: str | None, query: str, *, system: str | None, variables: Mapping[str, Any]
) -> Prompt:
    """What a template puts behind an answer, if `query` is asked next; see `Tokenizer.turn`.

    The turn before it is a stand-in. So a long document need not be rendered anew for each
    question, and it does not matter what a template takes away from old answers.
    """
    said = [("user", _FIRST), ("assistant", _ANSWER), ("user", query)]
    messages = check([{"role": role, "content": text} for role, text in said], system)
    pieces = _pieces(template, messages, variables)
    answer = [piece.message for piece in pieces].index(len(messages) - 2)
    return _prompt(pieces[answer + 1 :])


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Text of one writer. message: which one it is of; None: the template wrote it."""

    text: str
    message: int | None = None


def _prompt(pieces: Sequence[_Piece]) -> Prompt:
    return Prompt(tuple((piece.text, piece.message is None) for piece in pieces if piece.text))


def _pieces(
    template: str | None, messages: Sequence[Message], variables: Mapping[str, Any]
) -> list[_Piece]:
    """The whole text. Each message with any text is one piece; space around it is the template's.

    A template sees the messages as they are, and with marks around each.
    """
    number = chat.unused("".join(message["content"] for message in messages))
    marks = [(f"[[{number}:{i}<]]", f"[[{number}:{i}>]]") for i in range(len(messages))]
    marked_messages = [
        {**message, "content": _between(message["content"], *marks[i])}
        for i, message in enumerate(messages)
    ]
    whole, marked = chat.rendered(
        template, [chat.given(some, variables) for some in (messages, marked_messages)]
    )
    found: dict[str, list[int]] = {}  # where each mark is
    for mark in re.finditer(rf"\[\[{number}:\d+[<>]\]\]", marked):
        found.setdefault(mark[0], []).append(mark.start())
    places = []
    for i, message in enumerate(messages):
        if core := message["content"].strip():
            places.append((*_place(marked, core, marks[i], found, _name(i, messages)), i))
    order = [i for *_, i in sorted(places) if messages[i]["role"] != "system"]
    if (moved := next((i for i, j in itertools.pairwise(order) if i > j), None)) is not None:
        raise ValueError(f"{_name(moved, messages)}: the chat template puts it in another place")
    pieces, end = [], 0
    for start, after, i in sorted(places):
        begin, close = map(len, marks[i])
        pieces += [_Piece(marked[end:start]), _Piece(marked[start + begin : after - close], i)]
        end = after
    pieces.append(_Piece(marked[end:]))
    if "".join(piece.text for piece in pieces) != whole:
        raise ValueError(
            "the chat template changes a message, or its own text with what a message says: "
            "they cannot be told apart"
        )
    return pieces


def _name(i: int, messages: Sequence[Message]) -> str:
    return f"message {i + 1}, the {messages[i]['role']}'s"


def _between(text: str, begin: str, end: str) -> str:
    """The text with marks around it, inside the space at its ends: templates may take that."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return text[:start] + begin + core + end + text[start + len(core) :]


def _place(
    text: str, core: str, marks: tuple[str, str], found: Mapping[str, Sequence[int]], name: str
) -> tuple[int, int]:
    """Where a message, `core`, lies with its marks in the text: start and end.

    found: where in the text each mark is.

    Raises:
      ValueError: it is not there once, as it is.
    """
    for mark in marks:
        if (count := len(found.get(mark, ()))) != 1:
            what = f"shows it {count} times" if count else "drops it"
            raise ValueError(f"{name}: the chat template {what}")
    begin, close = marks
    (start,) = found[begin]
    if not text.startswith(core + close, start + len(begin)):
        raise ValueError(f"{name}: the chat template changes it")
    return start, start + len(begin + core + close)
