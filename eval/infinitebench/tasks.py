"""InfiniteBench's tasks: how their lines become prompts, and how long an answer may be."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from star_jax.json_files import shown

Fields = dict[str, Any]  # of a line, without its context


@dataclasses.dataclass(frozen=True)
class Task:
    """What stands before the context, the question after it, and how the answer begins.

    {input} in head and question is the line's own question, {target} what Math.Find looks for,
    {call} what Code.Run computes. options: whether the four options follow the question.
    """

    head: str
    question: str
    max_new_tokens: int
    answer_prefix: str = ""
    options: bool = False


_QUIZ = (
    "There is an important info hidden inside a lot of irrelevant text. Find it{}. I will quiz "
    "you about the important information there.\n\n"
)
PAPER = (  # the ten tasks of Star Attention's paper
    *("longbook_sum_eng", "longbook_qa_eng", "longbook_choice_eng", "longdialogue_qa_eng"),
    *("longbook_qa_chn", "code_debug", "math_find", "passkey", "number_string", "kv_retrieval"),
)
TASKS: dict[str, Task] = {
    "longbook_sum_eng": Task("Summarize the book below.\n\n", "", 1200, answer_prefix="Summary:"),
    "longbook_qa_eng": Task(
        "Read the book and answer the question. Be very concise in your answer.\n\n",
        "Question: {input}",
        40,
        answer_prefix="Answer:",
    ),
    "longbook_choice_eng": Task(
        "Read the book and answer the question.\n\n",
        "Question: {input}",
        40,
        answer_prefix="The letter of the correct answer is",
        options=True,
    ),
    "longdialogue_qa_eng": Task(
        "In the script below, one mention of a character's name has been replaced by $$MASK$$. "
        "Find out whose name it was.\n\n",
        "Whose name does $$MASK$$ stand for? Answer with the name that stands before the colon of "
        "that character's lines.",
        40,
        answer_prefix="$$MASK$$ stands for",
    ),
    "longbook_qa_chn": Task(
        "阅读以下书籍然后回答问题。\n\n", "问题\uff1a{input}", 40, answer_prefix="答案\uff1a"
    ),
    "code_debug": Task(
        "One function in the Python code below has been given an error on purpose.\n\n",
        "Which function has the error?",
        5,
        answer_prefix="The correct option is:",
        options=True,
    ),
    "code_run": Task(
        "Below are Python functions that call each other.\n\n",
        "Compute the exact value of {call}.",
        5,
        answer_prefix="The value of {call} is",
    ),
    "math_find": Task("What is {target} in the following list?\n\n", "{input}", 3),
    "math_calc": Task(
        "Give the value of an expression after each of its numbers, as a list. "
        "For 8 - 3 + 2 - 4 that is [8, 5, 7, 3].\n\n",
        "Give the list of values.",
        30000,
        answer_prefix="Values:",
    ),
    "passkey": Task(
        _QUIZ.format(" and memorize it"), "{input}", 6, answer_prefix="The pass key is"
    ),
    "number_string": Task(
        _QUIZ.format(""), "{input}", 12, answer_prefix="The sequence of digits is"
    ),
    "kv_retrieval": Task(
        "Extract the value corresponding to the specified key in the JSON object below.\n\n",
        "{input}",
        50,
    ),
}
_LETTERS = "ABCD"


@dataclasses.dataclass(frozen=True)
class Question:
    """A line without its context: the texts around it, and the answers."""

    head: str
    question: str
    answer_prefix: str
    outputs: tuple[str, ...]


def ask(name: str, fields: Fields) -> Question:
    """The question of a task's line.

    Raises:
      ValueError: the line has not what the task needs.
    """
    task = TASKS[name]
    asked = _text(fields, "input")
    known = {"input": asked.strip(), "target": "", "call": ""}
    if name == "math_find":
        known["target"] = _found(r"The .+ of", asked)[:-3].lower()
    if name == "code_run":
        known["call"] = _found(r"func_[0-9]+\(-?[0-9]+\)", asked)
    elif name not in ("longbook_sum_eng", "longdialogue_qa_eng", "math_calc") and not asked.strip():
        raise ValueError("'input' is empty")
    outputs = _answers(fields)
    question = _fill(task.question, known)
    if task.options:
        options = _options(fields)
        outputs = _with_letter(outputs, options)
        question += "".join(f"\n{a}. {b}" for a, b in zip(_LETTERS, options, strict=True))
    if name in _CHECKS:
        _CHECKS[name](outputs)
    found = Question(_fill(task.head, known), question, _fill(task.answer_prefix, known), outputs)
    _check_texts(found)
    return found


def _fill(template: str, known: dict[str, str]) -> str:
    """Fills in the names in braces; what is filled in may have braces of its own."""
    return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], template)


def _check_texts(question: Question) -> None:
    for text in (question.head, question.question, *question.outputs):
        try:
            text.encode()
        except UnicodeEncodeError as e:  # JSON can spell half a surrogate pair
            raise ValueError(f"{shown(text)} is not valid text ({e.reason})") from e


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"'input' has nothing like {pattern!r}: {shown(text)}")
    return found[0]


def _answers(fields: Fields) -> tuple[str, ...]:
    """The reference answers: a text, a number, or a list of them, which may stand in another."""
    answer = fields.get("answer")
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list):
        answer = answer[0]
    found = answer if isinstance(answer, list) else [answer]
    texts = [str(a) for a in found if _is_answer(a)]
    if not texts or len(texts) < len(found) or not all(text.strip() for text in texts):
        raise ValueError(f"'answer' is {shown(answer)}, and not texts or numbers")
    return tuple(texts)


def _is_answer(value: Any) -> bool:
    """A text or a number; JSON as Python writes it has NaN, too."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _options(fields: Fields) -> list[str]:
    options = fields.get("options")
    if (
        not isinstance(options, list)
        or len(options) != len(_LETTERS)
        or not all(isinstance(option, str) for option in options)
    ):
        raise ValueError(f"'options' is {shown(options)}, and not four texts")
    return options


def _with_letter(outputs: tuple[str, ...], options: Sequence[str]) -> tuple[str, ...]:
    """The answer's text and its letter; a line may have both."""
    if len(outputs) == 2 and outputs[1] in tuple(_LETTERS):
        if outputs[0] in options and outputs[0] != options[_LETTERS.index(outputs[1])]:
            raise ValueError(f"'answer' is {shown(outputs)}, and another of 'options' has its text")
        return outputs
    if len(outputs) != 1 or outputs[0] not in options:
        raise ValueError(f"'answer' is {shown(outputs)}, which is none of 'options'")
    return outputs[0], _LETTERS[options.index(outputs[0])]


def _text(fields: Fields, name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise ValueError(f"{name!r} is not a string but {shown(fields.get(name))}")
    return fields[name]


def _number(convert: Callable[[str], Any]) -> Callable[[tuple[str, ...]], None]:
    def check(outputs: tuple[str, ...]) -> None:
        try:
            [convert(output) for output in outputs]
        except ValueError as e:
            raise ValueError(f"'answer' is {shown(outputs)}, and not numbers") from e

    return check


def _digits(outputs: tuple[str, ...]) -> None:
    if not all(re.fullmatch(r"[0-9]+", output.strip()) for output in outputs):
        raise ValueError(f"'answer' is {shown(outputs)}, and not digits")


_CHECKS = {
    "math_find": _number(float),
    "code_run": _number(int),
    "math_calc": _number(int),
    "passkey": _digits,
    "number_string": _digits,
}
