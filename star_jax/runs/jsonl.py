"""Questions from a file of JSON lines, in the format of the reference implementation.

{"index"?, "input_context", "input_query", "answer_prefix"?, "outputs": [...] | "output": "..." |
neither}. An answer's prefix is put after the query; in a chat template, after the header of the
assistant's turn. A line of RULER's own scripts, {"input", "answer_prefix"?, "outputs"}, is cut into
context and query; see `published`.
"""

import codecs
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from star_jax import json_files
from star_jax.runs import published
from star_jax.runs.places import check_regular
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

CHAT = "chat"  # the template that comes with the model
RENDERED = "rendered"  # the file has texts that were put into a template before
TEMPLATES = ("base", CHAT, RENDERED)
DATE = "26 Jul 2024"  # for templates that show one, whenever a run goes on
_GIVEN = ("others", "truncation", "length")  # fields that are handed through to the record
_DEEPEST = 100  # what can just be read could not be written any more


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: the question, all the fields that the file gives, and where it stands.

    is_whole: it has one text, as RULER's own scripts write it.
    """

    sample: Sample
    fields: dict[str, Any]
    place: str  # file:line
    is_whole: bool = False


def read(path: str) -> list[Line]:
    """Reads and checks a whole file; blank lines are passed over.

    Without an index (or with the -1 that the reference writes then), a sample's index is its
    position, from 0.

    Raises:
      OSError: the file cannot be read.
      ValueError: a line is not a question; or the file has none, or is no regular file (it is
        read twice). Names file and line.
    """
    lines = [line for _, line in scan(path)]
    if not lines:
        raise ValueError(f"{path}: no questions in it")
    return lines


def scan(path: str) -> Iterator[tuple[int, Line]]:
    """The lines of `read`, one after the other, each with where it begins in the file, in bytes."""
    first: Line | None = None
    numbers: dict[int, int] = {}  # index -> line number
    check_regular(path)
    with open(path, "rb") as file:
        start = end = 0
        for number, text in enumerate(file, start=1):
            start, end = end, end + len(text)
            if not text.strip():
                continue
            try:
                line = _parse(text, len(numbers), f"{path}:{number}")
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from e
            first = first or line
            if has_index(line) != has_index(first):
                raise ValueError(f"{path}:{number}: either all lines have an index or none")
            index = line.sample.index
            if index in numbers:
                raise ValueError(f"{path}:{number}: {index=} is also that of line {numbers[index]}")
            numbers[index] = number
            yield start, line


def has_index(line: Line) -> bool:
    """Whether the file gives the line an index."""
    return line.fields.get("index") not in (None, -1)


def in_chat(line: Line, tokenizer: Tokenizer) -> Sample:
    """The question of a line in the model's chat template; see `Tokenizer.chat`.

    Raises:
      ValueError: the template cannot be cut around it. Names file and line.
    """
    try:
        context, query = tokenizer.chat(
            line.sample.context,
            line.fields["input_query"],
            answer_prefix=line.fields.get("answer_prefix", ""),
            date_string=DATE,
        )
    except ValueError as e:
        raise ValueError(f"{line.place}: {e}") from e
    return dataclasses.replace(line.sample, context=context, query=query)


def in_template(line: Line, template: str, tokenizer: Tokenizer) -> Sample:
    """The question of a line in one of `TEMPLATES`.

    Raises:
      ValueError: see `in_chat`.
    """
    if template == CHAT:
        return in_chat(line, tokenizer)
    if template == RENDERED:
        context, query = Prompt.template(line.sample.context), Prompt.template(line.sample.query)
        return dataclasses.replace(line.sample, context=context, query=query)
    return line.sample


def spells_special(line: Line, tokenizer: Tokenizer) -> bool:
    """Whether the query spells a special token: a chat template's, if it was put into one."""
    query = line.sample.query
    return tokenizer.encode_query(query) != tokenizer.encode_query(query, special=True)


def _parse(text: bytes, position: int, place: str) -> Line:
    text = text.removeprefix(codecs.BOM_UTF8)  # which some programs begin a file with
    fields = json_files.parse(text, limit=len(text))  # a context may be longer than any header
    is_whole = published.is_whole(fields)
    if is_whole:
        fields = _cut(fields)
    for name in ("input_context", "input_query"):
        if name not in fields:
            raise ValueError(f"no {name!r}; there is {sorted(fields)}")
        _check_text(name, fields[name])
        if not fields[name].strip():
            raise ValueError(f"{name!r} is empty")
    _check_text("answer_prefix", fields.get("answer_prefix", ""))
    for name in _GIVEN:
        _check_given(name, fields.get(name), _DEEPEST)
    index = -1 if fields.get("index") is None else fields["index"]
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"{index=} is not an integer")
    length = fields.get("length")
    sample = Sample(
        index=position if index == -1 else index,
        context=fields["input_context"],
        query=fields["input_query"] + fields.get("answer_prefix", ""),
        outputs=outputs(fields),
        length=length if isinstance(length, int) else None,
        given=given(fields),
    )
    return Line(sample, fields, place, is_whole)


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """What of a line its record has again."""
    return {name: fields[name] for name in _GIVEN if name in fields}


def _cut(fields: dict[str, Any]) -> dict[str, Any]:
    """The line of RULER's scripts as one of ours. Its index may be another number: position counts.

    Since 2025-05 that of a needle task is the place of the answer in the text.
    """
    prefix = fields.get("answer_prefix")
    for name, text in (("input", fields["input"]), ("answer_prefix", prefix or "")):
        _check_text(name, text)
    context, query, prefix = published.cut(fields["input"], prefix)
    cut = {"index": None, "input_context": context, "input_query": query, "answer_prefix": prefix}
    return {name: value for name, value in fields.items() if name != "input"} | cut


def _check_given(name: str, value: Any, levels: int) -> None:
    """Refuses what would make a record that is no JSON, or cannot be written at all."""
    _check_number(name, value)
    if not isinstance(value, dict | list):
        return
    if not levels:
        raise ValueError(f"{name!r} is nested more than {_DEEPEST} deep")
    for part in value.values() if isinstance(value, dict) else value:
        _check_given(name, part, levels - 1)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} has the number {value}, which JSON cannot say")


def outputs(fields: dict[str, Any]) -> tuple[str, ...]:
    """The reference answers of a line; none is allowed: the answer is then not scored."""
    name = "output" if fields.get("outputs") in (None, []) else "outputs"
    found = fields.get(name)
    if found is None:
        return ()
    if name == "output" and not isinstance(found, list):
        found = [found]
    if not isinstance(found, list):
        raise ValueError(f"'outputs' is not a list but a {type(found).__name__}")
    for output in found:
        _check_number(name, output)
    found = [str(o) if isinstance(o, int | float) and not isinstance(o, bool) else o for o in found]
    for output in found:
        _check_text(name, output)
        if not output.strip():
            raise ValueError(f"{name!r} has an empty answer, which any prediction would match")
    return tuple(found)


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name!r} is not a string but a {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as e:  # JSON can spell half a surrogate pair
        raise ValueError(f"{name!r} is not valid text ({e.reason})") from e
