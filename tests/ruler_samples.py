"""RULER samples for tests: a counter of tokens, and readers who see context and query only."""

import collections
import re
from collections.abc import Callable
from typing import Any

import ruler_sources

from star_jax.eval import ruler
from star_jax.runs.sample import Sample

TASKS = sorted(ruler.NAMES)
LINE_TASKS = ["niah_multikey_2", "niah_multikey_3", "niah_single_1"]
NEEDLE_TASKS = [task for task in TASKS if task.startswith("niah")]
ESSAY_TASKS = [task for task in NEEDLE_TASKS if task not in LINE_TASKS]
QA_TASKS = ["qa_1", "qa_2"]


def words(text: str) -> int:
    """A tokenizer's stand-in: words, digits and punctuation marks count one each."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w ]", text))


def make(task: str, *, mode: str = "exact", index: int = 0, **changes: Any) -> Sample:
    settings: dict[str, Any] = {
        "length": 1024,
        "seed": 42,
        "count_tokens": words,
        "max_new_tokens": 128,
        "wrap": ruler.TEMPLATES["base"],
        "keys": None,
        "sources": ruler_sources.read(),
    }
    return ruler.maker(task, mode, **(settings | changes)).sample(index)


def read(task: str, sample: Sample) -> str:
    """A perfect reader."""
    return _READERS[task](sample)


def _needles(sample: Sample) -> str:
    """Finds the sentences of the asked keys, and reads what they are."""
    found = re.search(r"magic (number|uuid)s? for (.+?) mentioned", sample.query)
    assert found
    kind, keys = found.groups()
    values = []
    for key in re.split(r", and |, ", keys):
        values += re.findall(rf"{kind}s for {re.escape(key)} is: ([\w-]+)\.", sample.context)
    return ", ".join(values)


def _keeper(sample: Sample) -> str:
    place = re.search(r"keeper of (\w+)\?", sample.query)
    assert place
    (found,) = set(re.findall(rf"The keeper of {place[1]} is ([\w ]+)\.", sample.context))
    return found


def _river(sample: Sample) -> str:
    """Goes from the person to the town, and from the town to its river."""
    if asked := re.search(r"Was (\w+) born in (\w+)\?", sample.query):
        return "yes" if f"{asked[1]} was born in {asked[2]}." in sample.context else "no"
    person = re.search(r"town where (\w+) was born", sample.query)
    assert person
    (town,) = set(re.findall(rf"{person[1]} was born in (\w+)\.", sample.context))
    (found,) = set(re.findall(rf"The (\w+ Water) flows through {town}\.", sample.context))
    return found


def _variables(sample: Sample) -> str:
    found = re.search(r"assigned the value (\d+)", sample.query)
    assert found
    holds = {found[1]}
    answer = []
    for name, giver in re.findall(r"VAR ([A-Z]+) = (?:VAR )?(\w+)", sample.context):
        if giver in holds:
            holds.add(name)
            answer.append(name)
    return " ".join(answer)


def ranked(task: str, sample: Sample) -> list[tuple[str, int]]:
    """The words of a list and how often each occurs, most often first."""
    if task == "cwe":
        found = re.findall(r"\d+\. (.+?)(?= \d+\.|$)", sample.context.split("\n")[-2])
    else:
        found = sample.context.removesuffix("\n").rpartition("coded words. ")[2].split(" ")
        found = [word for word in found if word != "..."]
    return collections.Counter(found).most_common()


def _common(sample: Sample) -> str:
    return " ".join(f"{i}. {w}" for i, (w, _) in enumerate(ranked("cwe", sample)[:10], 1))


def _frequent(sample: Sample) -> str:
    return ", ".join(word for word, _ in ranked("fwe", sample)[:3])


_READERS: dict[str, Callable[[Sample], str]] = {
    **dict.fromkeys(NEEDLE_TASKS, _needles),
    "qa_1": _keeper,
    "qa_2": _river,
    "vt": _variables,
    "cwe": _common,
    "fwe": _frequent,
}
