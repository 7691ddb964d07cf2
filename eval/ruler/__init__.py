"""RULER's tasks that need no data set, generated to fit a length.

Templates, distributions and metric are RULER's (Hsieh et al., 2024, arXiv 2404.06654).
On purpose different: every sample has its own random stream, so that sample i is the same
however many are drawn and where its answers stand varies; every sample is fitted by itself,
to one line or word; and the rewriting of the needle tasks to the singular is applied to the
task's text only, not to the chat template around it. What differs in one task only, its
module says.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

from star_jax.eval.ruler import cwe, fwe, niah, vt
from star_jax.eval.ruler.draft import Draft, largest
from star_jax.runs.metrics import MATCH_ALL, Metric
from star_jax.runs.sample import Sample

# What stands before the context, and between the question and the answer's prefix.
TEMPLATES: dict[str, tuple[str, str]] = {
    "base": ("", ""),
    "llama3": (
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        ),
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A RULER task: how a sample is drafted, how many tokens its answer may have, its metric."""

    draft: Callable[..., Draft]
    max_new_tokens: int
    metric: Metric = MATCH_ALL


TASKS: dict[str, Task] = {
    "niah_single_1": Task(functools.partial(niah.draft, haystack="noise", kind="number"), 128),
    "niah_multikey_2": Task(functools.partial(niah.draft, haystack="needles", kind="number"), 128),
    "niah_multikey_3": Task(functools.partial(niah.draft, haystack="needles", kind="uuid"), 128),
    "vt": Task(vt.draft, 30),
    "cwe": Task(cwe.draft, 120),
    "fwe": Task(fwe.draft, 50),
}


def generate(
    task: str,
    *,
    length: int,
    index: int,
    seed: int,
    count_tokens: Callable[[Any], int],
    max_new_tokens: int,
    wrap: tuple[str, str],
    keys: Sequence[str] | None,
) -> Sample:
    """Sample `index` of a task, with as much of its haystack as fits into `length` tokens.

    Counted are context, query, answers and `max_new_tokens`. The sample depends on nothing
    but the arguments. `wrap` is what stands before the context, and between the question and
    the answer's prefix: a value of `TEMPLATES`, or another chat template. `keys` are the words
    to draw keys from where a task's keys are words; None: RULER's, an adjective and a noun of
    wonderwords.

    Raises:
      ValueError: unknown task, a length that holds no haystack, too few keys.
    """
    if task not in TASKS:
        raise ValueError(f"{task=} is unknown; known: {sorted(TASKS)}")
    rng = random.Random(f"{task} {length} {index} {seed}")
    draft = TASKS[task].draft(rng, length=length, count_tokens=count_tokens, keys=keys)
    before, between = wrap
    query = draft.question + between + draft.answer_prefix
    fixed = count_tokens(query) + count_tokens(" ".join(draft.outputs)) + max_new_tokens

    def count(size: int) -> int:
        return fixed + count_tokens(before + draft.context(size))

    size, tokens = largest(count, length, least=draft.least, unit=draft.unit)
    needles = tuple((a + len(before), b + len(before)) for a, b in draft.needles(size))
    return Sample(index, before + draft.context(size), query, draft.outputs, needles, tokens)
