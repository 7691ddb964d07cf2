"""The three ways in which RULER's tasks can be made: `data.compat`.

exact: ours, and the default. Every sample has its own random numbers, so that sample i is the
  same however many are drawn; it is fitted by itself, to one line, word or document; and the
  places of what is asked vary from sample to sample. No prompt is damaged. The text is RULER's.
ruler: what NVIDIA/RULER's main branch makes (c3f5e3b): one size for all samples, found by its
  search, with its steps back; one order of needles, documents and lists for all samples, given
  by the seed (theirs: 42); its solved examples, words and counts; a short corpus is repeated.
star: what the paper of Star Attention ran (NVIDIA/Star-Attention c61059f, with its first
  release's counts of common words, 30 and 3): as ruler, but sizes in steps; "assgined"; "You is a
  helpful assistant" where one needle is asked for; the chat template once more in the middle of
  common words; the example of variable tracking in one line, its question without its last word;
  frequent words fitted without query and answer, so that prompts are longer than the length, and
  120 tokens to answer them; a short corpus is not repeated.

What ruler and star do not reproduce: the very samples, since random numbers are drawn in another
order, so that only wording and distribution are the same. Sentences of essays are found by a rule
and not by NLTK. A sample that has to shrink keeps its needles; theirs draws new ones. Keys of one
sample are distinct here, and so are values. The tokenizer's BOS counts, and is there, in every
mode, which Star Attention's template `base` does not have. Where their loops would never end, and
where RULER's common words need a list that is not shipped, there is an error.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from star_jax.eval.ruler import cwe, fwe, niah, qa, vt
from star_jax.eval.ruler.draft import Draft
from star_jax.eval.ruler.published import lists
from star_jax.eval.ruler.published import niah as published_niah
from star_jax.eval.ruler.published import qa as published_qa
from star_jax.eval.ruler.published import vt as published_vt
from star_jax.eval.ruler.published.scripts import RULER, STAR, Scripts
from star_jax.runs.metrics import MATCH_ALL, MATCH_PART, Metric


@dataclasses.dataclass(frozen=True)
class Task:
    """A RULER task: how a sample is drafted, how many tokens its answer may have, its metric."""

    draft: Callable[..., Draft]  # of random numbers and a Request
    max_new_tokens: int
    metric: Metric = MATCH_ALL


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way to make the tasks. templates: those that it knows; None: all."""

    tasks: Mapping[str, Task]
    templates: tuple[str, ...] | None = None


_LINES: dict[str, dict[str, Any]] = {
    "niah_single_1": {"haystack": "noise", "kind": "number"},
    "niah_multikey_2": {"haystack": "needles", "kind": "number"},
    "niah_multikey_3": {"haystack": "needles", "kind": "uuid"},
}
_ESSAYS: dict[str, dict[str, Any]] = {
    "niah_single_2": {"kind": "number", "keys": 1, "values": 1, "queries": 1},
    "niah_single_3": {"kind": "uuid", "keys": 1, "values": 1, "queries": 1},
    "niah_multikey_1": {"kind": "number", "keys": 4, "values": 1, "queries": 1},
    "niah_multivalue": {"kind": "number", "keys": 1, "values": 4, "queries": 1},
    "niah_multiquery": {"kind": "number", "keys": 4, "values": 1, "queries": 4},
}
_QUESTIONS: dict[str, dict[str, Any]] = {"qa_1": {"file": "squad"}, "qa_2": {"file": "hotpotqa"}}
NAMES = (  # in the order of RULER's tables
    *("niah_single_1", "niah_single_2", "niah_single_3"),
    *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)


def _tasks(
    lines: Callable[..., Draft],
    essays: Callable[..., Draft],
    questions: Callable[..., Draft],
    **others: Task,
) -> dict[str, Task]:
    found = {
        **{name: Task(functools.partial(lines, **how), 128) for name, how in _LINES.items()},
        **{name: Task(functools.partial(essays, **how), 128) for name, how in _ESSAYS.items()},
        **others,
        **{
            name: Task(functools.partial(questions, **how), 32, MATCH_PART)
            for name, how in _QUESTIONS.items()
        },
    }
    return {name: found[name] for name in NAMES}


def _published(scripts: Scripts, wording: published_vt.Wording, fwe_tokens: int) -> dict[str, Task]:
    def made(draft: Callable[..., Draft]) -> Callable[..., Draft]:
        return functools.partial(draft, scripts=scripts)

    return _tasks(
        made(published_niah.draft),
        made(published_niah.in_essays),
        made(published_qa.draft),
        vt=Task(functools.partial(published_vt.draft, wording=wording), 30),
        cwe=Task(made(lists.common_words), 120),
        fwe=Task(made(lists.frequent_words), fwe_tokens),
    )


EXACT = _tasks(
    niah.draft,
    niah.in_essays,
    qa.draft,
    vt=Task(vt.draft, 30),
    cwe=Task(cwe.draft, 120),
    fwe=Task(fwe.draft, 50),
)
MODES: dict[str, Mode] = {
    "exact": Mode(EXACT),
    "ruler": Mode(_published(RULER, published_vt.OF_RULER, 50), ("base", "meta-llama3", "chat")),
    "star": Mode(_published(STAR, published_vt.OF_STAR, 120), ("base", "llama3")),
}
