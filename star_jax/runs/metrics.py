"""How predictions are scored: RULER's own matching."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from star_jax.runs.sample import Sample

_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclasses.dataclass(frozen=True)
class Metric:
    """What makes a score, 0 to 1, of a prediction, and the name that stands beside the score.

    is_forced: nothing is generated and there is no such score: it is measured how likely the
      reference answer is.
    """

    name: str
    score: Callable[[str, Sample], float]
    is_forced: bool = False


def postprocess(pred: str) -> str:
    """A prediction as RULER scores it: stripped, with control characters as newlines."""
    return _CONTROL.sub("\n", pred.strip()).strip()


def string_match_all(pred: str, outputs: Sequence[str]) -> float:
    """The share of the references, 0 to 1, that occur in `pred`, case aside.

    Raises:
      ValueError: there is no reference.
    """
    return sum(_matches(pred, outputs)) / len(outputs)


def string_match_part(pred: str, outputs: Sequence[str]) -> float:
    """1 if any of the references occurs in `pred`, case aside, else 0.

    Raises:
      ValueError: there is no reference.
    """
    return float(any(_matches(pred, outputs)))


def _matches(pred: str, outputs: Sequence[str]) -> list[bool]:
    if not outputs:
        raise ValueError(f"{outputs=}: nothing to compare with")
    return [ref.lower() in pred.lower() for ref in outputs]


MATCH_ALL = Metric(
    "string_match_all", lambda pred, sample: string_match_all(postprocess(pred), sample.outputs)
)
MATCH_PART = Metric(
    "string_match_part", lambda pred, sample: string_match_part(postprocess(pred), sample.outputs)
)
