"""RULER's own scoring: what is stripped from a prediction, and what counts as a match."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def postprocess(pred: str) -> str:
    """A prediction as RULER scores it: stripped, with control characters as newlines."""
    return _CONTROL.sub("\n", pred.strip()).strip()


def string_match_all(pred: str, outputs: Sequence[str]) -> float:
    """The share of the references, 0 to 1, that occur in `pred`, case aside.

    Raises:
      ValueError: there is no reference.
    """
    if not outputs:
        raise ValueError(f"{outputs=}: nothing to compare with")
    return sum(ref.lower() in pred.lower() for ref in outputs) / len(outputs)
