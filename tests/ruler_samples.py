"""RULER samples for tests: a counter of tokens, and readers who see context and query only."""

import collections
import re
from collections.abc import Callable
from typing import Any

from star_jax.eval import ruler
from star_jax.runs.sample import Sample

TASKS = sorted(ruler.TASKS)
NEEDLE_TASKS = [task for task in TASKS if task.startswith("niah")]


def words(text: str) -> int:
    """A tokenizer's stand-in: words, digits and punctuation marks count one each."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w ]", text))


def make(task: str, **changes: Any) -> Sample:
    settings: dict[str, Any] = {
        "length": 1024,
        "index": 0,
        "seed": 42,
        "count_tokens": words,
        "max_new_tokens": 128,
        "wrap": ruler.TEMPLATES["base"],
        "keys": None,
    }
    return ruler.generate(task, **(settings | changes))


def read(task: str, sample: Sample) -> str:
    """A perfect reader."""
    return _READERS[task](sample)


def _needle(sample: Sample) -> str:
    """Finds the asked key's line, and reads what it is."""
    found = re.search(r"magic (number|uuid) for (.+?) mentioned", sample.query)
    assert found
    kind, key = found.groups()
    return re.findall(rf"{kind}s for {re.escape(key)} is: ([\w-]+)\.", sample.context)[-1]


def _variables(sample: Sample) -> str:
    found = re.search(r"assigned the value (\d+)", sample.query)
    assert found
    holds = {found[1]}
    answer = []
    for name, giver in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", sample.context, re.M):
        if giver in holds:
            holds.add(name)
            answer.append(name)
    return " ".join(answer)


def ranked(task: str, sample: Sample) -> list[tuple[str, int]]:
    """The words of a list and how often each occurs, most often first."""
    if task == "cwe":
        found = re.findall(r"\d+\. (\S+)", sample.context.split("\n")[-2])
    else:
        found = sample.context.removesuffix("\n").rpartition("coded words. ")[2].split(" ")
        found = [word for word in found if word != "..."]
    return collections.Counter(found).most_common()


def _common(sample: Sample) -> str:
    return " ".join(f"{i}. {w}" for i, (w, _) in enumerate(ranked("cwe", sample)[:10], 1))


def _frequent(sample: Sample) -> str:
    return ", ".join(word for word, _ in ranked("fwe", sample)[:3])


_READERS: dict[str, Callable[[Sample], str]] = {
    **dict.fromkeys(NEEDLE_TASKS, _needle),
    "vt": _variables,
    "cwe": _common,
    "fwe": _frequent,
}
