"""What the two sets of published scripts do, and where they differ in all tasks alike."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from star_jax.eval.ruler.draft import Steps
from star_jax.text.prompt import Prompt, Text


@dataclasses.dataclass(frozen=True)
class Scripts:
    """One set of scripts.

    is_linear: sizes are tried in steps, and the answers count in the search; else each size may
      be found, and they do not.
    repeats: a haystack that is too short is repeated; else samples are shorter.
    damages: the rewriting of needle tasks to the singular also hits the chat template.
    """

    is_linear: bool
    repeats: bool
    damages: bool

    def steps(self, step: int, *, answer: str, **more: Any) -> Steps:
        """Sizes from `step` on; a sample that is too long goes back by `step`."""
        if not self.is_linear:
            return Steps(first=step, step=1, back=step, **more)
        return Steps(first=step, step=step, back=step, answer=answer, **more)


# NVIDIA/RULER, main, as of 2026 (c3f5e3b).
RULER = Scripts(is_linear=False, repeats=True, damages=False)
# NVIDIA/Star-Attention (c61059f), with the common words of its first release and of the paper.
STAR = Scripts(is_linear=True, repeats=False, damages=True)


def shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    """In an order that the seed and the number of items give: the same for all samples."""
    found = list(items)
    random.Random(seed).shuffle(found)
    return found


def damaged(text: Text) -> Text:
    """A chat template that has gone through the rewriting to the singular: You is helpful."""

    def rewritten(part: str) -> str:
        part = part.replace("Some", "A").replace("are all", "is").replace("are", "is")
        return part.replace("answers", "answer")

    if isinstance(text, Prompt):
        return Prompt(tuple((rewritten(part), by_template) for part, by_template in text.parts))
    return rewritten(text)
