"""How InfiniteBench scores predictions, task by task; see its src/compute_scores.py.

Each function takes a prediction and the references: one answer, or for multiple choice the
answer's text and its letter.
"""

import re
from collections.abc import Callable, Sequence

from star_jax.eval.text_metrics import character_f1, f1, rouge
from star_jax.runs.metrics import Metric

_MARKS = "\n\"'.,?!{}"
_CHOICE = ("answer is:", "answer:", "answer is", "option is")
_DEBUG = ("answer is:", "is:", "answer:")


def first_integer(pred: str, outputs: Sequence[str]) -> float:
    """1 if the first run of digits is the answer, with all of its zeros."""
    found = re.search("[0-9]+", pred)
    return float(found is not None and found[0] == outputs[0])


def first_number(pred: str, outputs: Sequence[str]) -> float:
    """1 if the first number, an integer or a decimal fraction without a sign, equals the answer.

    3.7 is not 3. MInference cuts the fraction off, and would count it as right; InfiniteBench's
    own function raises an error there.
    """
    found = re.search(r"\d+\.\d+|\d+", pred)
    return float(found is not None and float(found[0]) == float(outputs[0]))


def last_integer(pred: str, outputs: Sequence[str]) -> float:
    """1 if the last word is the answer as an integer."""
    words = _without(pred, "\n.`'\":").split()
    return float(bool(words) and _as_integer(words[-1]) == int(outputs[0]))


def word(pred: str, outputs: Sequence[str]) -> float:
    """1 if the answer is one of the words."""
    return float(outputs[0] in _without(pred, _MARKS + ":").split())


def speaker(pred: str, outputs: Sequence[str]) -> float:
    """1 if the answer, which is in capitals, is one of the words in capitals."""
    return float(outputs[0] in _without(pred, _MARKS + ":").upper().split())


def choice(pred: str, outputs: Sequence[str]) -> float:
    """1 if a choice of A to D is the right one.

    It is the first letter of the prediction, or else the whole prediction, or what comes a space
    after "answer is:" and the like, or the first word that is such a letter.
    """
    pred = pred.strip()
    if not pred:
        return 0.0
    if pred[0] in "ABCD":
        return float(pred[0] in outputs)
    if pred in outputs:
        return 1.0
    pred = re.sub(" +", " ", _without(pred, _MARKS))
    if (said := _after(pred, _CHOICE)) is not None:
        return float(said.startswith(tuple(outputs)))
    letters = (each for each in pred.split() if each in "ABCD")  # "BC" is in it, too
    return float(next(letters, None) in outputs)


def debug(pred: str, outputs: Sequence[str]) -> float:
    """1 if a prediction begins with the right letter and a full stop or colon.

    Or if the letter, or the function's name, comes a space after "answer is:" and the like.
    """
    name, letter = outputs
    pred = pred.strip()
    if pred[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    pred = _without(pred, "\n`'\"-*").replace("Option", " ").replace("option", " ")
    said = _after(re.sub(" +", " ", pred), _DEBUG)
    return float(said is not None and said.startswith((letter, name)))


def first_integers(pred: str, outputs: Sequence[str]) -> float:
    """The share of the answer's integers that come in its order, until the first other one."""
    right = 0
    for digits, output in zip(re.findall("[0-9]+", pred), outputs, strict=False):
        # As texts: of more than 4300 digits Python makes no integer.
        if (digits.lstrip("0") or "0") != str(int(output)):
            break
        right += 1
    return right / len(outputs)


def _without(text: str, marks: str) -> str:
    """The text with spaces in place of marks."""
    return text.translate(dict.fromkeys(map(ord, marks), " "))


def _after(text: str, prefixes: Sequence[str]) -> str | None:
    """What comes after the first of the prefixes that the text has, one character left out."""
    for prefix in prefixes:
        if prefix in text:
            return text[text.index(prefix) + len(prefix) + 1 :]
    return None


def _as_integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _metric(score: Callable[[str, Sequence[str]], float]) -> Metric:
    return Metric(
        f"infinitebench {score.__name__}", lambda pred, sample: score(pred, sample.outputs)
    )


METRICS: dict[str, Metric] = {
    "longbook_sum_eng": Metric("rougeLsum", lambda pred, sample: rouge(pred, sample.outputs)),
    "longbook_qa_eng": Metric("f1", lambda pred, sample: f1(pred, sample.outputs)),
    "longbook_choice_eng": _metric(choice),
    "longdialogue_qa_eng": _metric(speaker),
    "longbook_qa_chn": Metric(
        "character_f1", lambda pred, sample: character_f1(pred, sample.outputs)
    ),
    "code_debug": _metric(debug),
    "code_run": _metric(last_integer),
    "math_find": _metric(first_number),
    "math_calc": _metric(first_integers),
    "passkey": _metric(first_integer),
    "number_string": _metric(first_integer),
    "kv_retrieval": _metric(word),
}
