"""Scores of free text, 0 to 1: exact match, F1 over words or characters, and ROUGE.

Exact match and F1 over words read texts as SQuAD does (Rajpurkar et al., 2016, arXiv 1606.05250):
in lower case, without punctuation, without the articles a, an and the. F1 over characters is
what InfiniteBench (Zhang et al., 2024, arXiv 2402.13718) scores Chinese answers by. ROUGE
(Lin, 2004) is computed by the package rouge-score. Of several references the best counts.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Punctuation as InfiniteBench has it: the full-width forms, but for the full stop, and these.
# Of the double angle brackets only the closing one is among them.
_FULL_WIDTH = "".join(chr(ord(c) + 0xFEE0) for c in string.punctuation if c != ".")
_CHINESE = _FULL_WIDTH + "｡。｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏"  # noqa: RUF001
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ALL_PUNCTUATION = str.maketrans("", "", string.punctuation + _CHINESE)
_ROUGE = re.compile(r"rouge[1-9]|rougeL|rougeLsum")


def exact_match(pred: str, outputs: Sequence[str]) -> float:
    """1 if the prediction is one of the references, else 0.

    A reference of which SQuAD's reading leaves nothing, like the letter A, is compared in lower
    case alone: else an empty prediction would match it.

    Raises:
      ValueError: there is no reference.
    """

    def matches(output: str) -> float:
        if words := _words(output):
            return float(_words(pred) == words)
        return float(pred.strip().lower() == output.strip().lower())

    return _best(outputs, matches)


def f1(pred: str, outputs: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the prediction's words.

    Raises:
      ValueError: there is no reference.
    """
    return _best(outputs, lambda output: _overlap(_words(pred), _words(output)))


def character_f1(pred: str, outputs: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the prediction's characters.

    Case, space and InfiniteBench's list of punctuation do not count.

    Raises:
      ValueError: there is no reference.
    """
    return _best(outputs, lambda output: _overlap(_characters(pred), _characters(output)))


def rouge(pred: str, outputs: Sequence[str], kind: str = "rougeLsum") -> float:
    """The F-measure of a ROUGE score: rouge1 to rouge9, rougeL, or rougeLsum.

    Words are not stemmed. rougeLsum takes each line of a text as a sentence.

    Raises:
      ValueError: there is no reference, no such kind, or the package rouge-score is missing.
    """
    scorer = _scorer(kind)
    return _best(outputs, lambda output: scorer.score(output, pred)[kind].fmeasure)


def check_rouge() -> None:
    """Looks for the package that computes ROUGE.

    Raises:
      ValueError: it is missing; says how to install it.
    """
    _scorer("rougeLsum")


@functools.cache
def _scorer(kind: str) -> Any:
    if not _ROUGE.fullmatch(kind):
        raise ValueError(f"{kind=} is unknown; there is rouge1 to rouge9, rougeL, rougeLsum")
    try:
        from rouge_score import rouge_scorer  # optional, and slow to import
    except ImportError as e:
        raise ValueError(
            f"ROUGE needs the package rouge-score ({e}): pip install 'star-jax[suites]'"
        ) from e
    return rouge_scorer.RougeScorer([kind])


def _best(outputs: Sequence[str], score: Callable[[str], float]) -> float:
    if not outputs:
        raise ValueError(f"{outputs=}: nothing to compare with")
    return float(max(map(score, outputs)))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _characters(text: str) -> list[str]:
    return list("".join(text.lower().translate(_ALL_PUNCTUATION).split()))


def _overlap(pred: Sequence[str], output: Sequence[str]) -> float:
    """F1 of two lists, where an item counts as often as both have it."""
    same = sum((collections.Counter(pred) & collections.Counter(output)).values())
    return 2 * same / (len(pred) + len(output)) if same else 0.0
