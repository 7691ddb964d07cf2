"""One question of an evaluation suite."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from star_jax.text.prompt import Text


@dataclasses.dataclass(frozen=True)
class Sample:
    """A context, a query about it, and the reference answers.

    needles: the spans of what the answer is read from, in characters of `context`; none where the
      suite does not know them. length: in tokens, where the suite states it. facts: what else the
      suite's metric reads. given: fields of a user's line that its record has again.
    """

    index: int
    context: Text
    query: Text
    outputs: tuple[str, ...]
    needles: tuple[tuple[int, int], ...] = ()
    length: int | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
