"""Questions about documents: what RULER reads from SQuAD's and HotpotQA's files."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.json_files import shown


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, and the documents that come with it, by their numbers.

    given: are always there. more: of the same article; they are there before any others.
    answers: of the documents that hold the answer, where it stands in them, as (start, end).
    """

    text: str
    outputs: tuple[str, ...]
    given: tuple[int, ...]
    more: tuple[int, ...]
    answers: Mapping[int, Sequence[tuple[int, int]]]


@dataclasses.dataclass(frozen=True)
class Questions:
    """A file of them, in its order; its documents each once, sorted."""

    documents: Sequence[str]
    questions: Sequence[Question]


def squad(fields: Any) -> Questions:
    """SQuAD 2.0's answerable questions. The paragraphs of an article are `more` of each other.

    Raises:
      ValueError: names what is missing or of the wrong type.
    """
    articles = _list(_field(fields, "data", "the file"), "data")
    paragraphs = []
    for i, article in enumerate(articles):
        where = f"data[{i}]"
        inside = _list(_field(article, "paragraphs", where), f"{where}.paragraphs")
        paragraphs.append([(f"{where}.paragraphs[{j}]", one) for j, one in enumerate(inside)])
    texts = [[_text(one, "context", where) for where, one in row] for row in paragraphs]
    documents = sorted({text for row in texts for text in row})
    number = {text: i for i, text in enumerate(documents)}
    found = []
    for row, own in zip(paragraphs, texts, strict=True):
        for (where, paragraph), text in zip(row, own, strict=True):
            gold = number[text]
            more = tuple(dict.fromkeys(i for t in own if (i := number[t]) != gold))
            for k, one in enumerate(_list(_field(paragraph, "qas", where), f"{where}.qas")):
                at = f"{where}.qas[{k}]"
                if _field(one, "is_impossible", at):
                    continue
                outputs, spans = _annotated(text, one, at)
                question = _text(one, "question", at)
                found.append(Question(question, outputs, (gold,), more, {gold: spans}))
    return _some(documents, found)


def hotpotqa(fields: Any) -> Questions:
    """HotpotQA's questions, each with the ten paragraphs that its distractor setting gives.

    The answer is looked for in the paragraphs that the file calls supporting. Where none spells
    it, as of yes and no, these paragraphs are the answer's place as a whole.

    Raises:
      ValueError: names what is missing or of the wrong type.
    """
    lines = _list(fields, "the file")
    given = [_paragraphs(one, f"[{i}]") for i, one in enumerate(lines)]
    documents = sorted({text for row in given for _, text in row})
    number = {text: i for i, text in enumerate(documents)}
    found = []
    for i, (one, row) in enumerate(zip(lines, given, strict=True)):
        answer = _text(one, "answer", f"[{i}]")
        facts = _list(_field(one, "supporting_facts", f"[{i}]"), f"[{i}].supporting_facts")
        titles = {fact[0] for fact in facts if isinstance(fact, list) and _is_titled(fact)}
        gold = {number[text]: text for title, text in row if title in titles}
        if not gold:
            raise ValueError(f"[{i}].supporting_facts names none of its paragraphs")
        spans = {}
        if answer not in ("yes", "no"):
            spans = {n: where for n, text in gold.items() if (where := _spelled(answer, text))}
        found.append(
            Question(
                _text(one, "question", f"[{i}]"),
                (answer,),
                tuple(dict.fromkeys(number[text] for _, text in row)),
                (),
                spans or {n: [(0, len(text))] for n, text in gold.items()},
            )
        )
    return _some(documents, found)


def _annotated(
    text: str, question: Any, where: str
) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
    """The answers of annotators, and where they stand; those that overlap are one place."""
    outputs, spans = [], []
    for i, one in enumerate(_list(_field(question, "answers", where), f"{where}.answers")):
        at = f"{where}.answers[{i}]"
        answer, start = _text(one, "text", at), _field(one, "answer_start", at)
        if not isinstance(start, int) or text[start : start + len(answer)] != answer:
            raise ValueError(f"{at}: {shown(answer)} does not stand at {shown(start)}")
        outputs.append(answer)
        spans.append((start, start + len(answer)))
    if not outputs:
        raise ValueError(f"{where} has no answers, and is not called impossible")
    return tuple(outputs), _merged(spans)


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _paragraphs(one: Any, where: str) -> list[tuple[str, str]]:
    """(title, title and text) of each paragraph of a question of HotpotQA."""
    found = []
    for j, pair in enumerate(_list(_field(one, "context", where), f"{where}.context")):
        match pair:
            case [str(title), list(sentences)] if all(isinstance(s, str) for s in sentences):
                found.append((title, _valid(f"{title}\n{''.join(sentences)}", f"{where}.context")))
            case _:
                raise ValueError(
                    f"{where}.context[{j}] is not [title, [sentence, ...]] but {shown(pair)}"
                )
    return found


def _is_titled(fact: list[Any]) -> bool:
    return bool(fact) and isinstance(fact[0], str)


def _spelled(answer: str, text: str) -> list[tuple[int, int]]:
    """Where a text has an answer as words of their own, first; nothing if nowhere."""
    match = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
    return [match.span()] if match else []


def _some(documents: Sequence[str], found: Sequence[Question]) -> Questions:
    if not found:
        raise ValueError("there is no question in it that has an answer")
    return Questions(documents, found)


def _field(value: Any, name: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object but {shown(value)}")
    if name not in value:
        raise ValueError(f"{where} has no field {name!r}, but {shown(list(value))}")
    return value[name]


def _text(value: Any, name: str, where: str) -> str:
    found = _field(value, name, where)
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{where}.{name} is not a text but {shown(found)}")
    return _valid(found, f"{where}.{name}")


def _valid(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as e:  # JSON can spell half a surrogate pair
        raise ValueError(f"{where} is not valid text ({e.reason})") from e
    return text


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is not a list but {shown(value)}")
    return value
