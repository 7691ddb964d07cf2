"""One question of an evaluation suite."""

import dataclasses

from star_jax.text.prompt import Text


@dataclasses.dataclass(frozen=True)
class Sample:
    """A context, a query about it, and the reference answers.

    `needle` is the span of the asked needle's sentence, in characters of `context`; None
    if the suite has none. `length` is the length in tokens that the suite states, if any.
    """

    index: int
    context: Text
    query: Text
    outputs: tuple[str, ...]
    needle: tuple[int, int] | None
    length: int | None
