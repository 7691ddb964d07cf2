"""RULER: questions are generated, to fit the lengths that the configuration gives."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

from star_jax.eval import ruler
from star_jax.eval.lists import check_known, items, lengths, num_samples
from star_jax.eval.ruler import sources
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites.suite import Cell, Suite
from star_jax.runs import hashes, limits
from star_jax.runs.jsonl import CHAT, DATE
from star_jax.runs.places import check_regular
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

SAMPLES = 500  # of each task, as RULER has them


def _check(data: DataConfig) -> None:
    limits.check_samples("data.num_samples", data.num_samples)
    check_known("data.compat", data.compat, tuple(ruler.MODES))
    for task in _tasks(data):
        check_known("data.tasks", task, sorted(ruler.NAMES))
    check_known("data.template", data.template, (*sorted(ruler.TEMPLATES), CHAT))
    known = ruler.MODES[data.compat].templates
    if known is not None and data.template not in known:
        raise ValueError(
            f"data.compat={data.compat!r} has no data.template={data.template!r}, as its scripts "
            f"have none: there is {', '.join(known)}"
        )
    if not data.lengths:
        raise ValueError("data.lengths is empty: give the lengths to generate, like 4096,8192")


def _tasks(data: DataConfig) -> tuple[str, ...]:
    return items("data.tasks", data.tasks) if data.tasks else ruler.NAMES


def _settings(data: DataConfig) -> dict[str, Any]:
    tasks = sorted(_tasks(data))
    return {
        "data.compat": data.compat,
        "data.tasks": tasks,
        "data.seed": data.seed,
        "data.keys": hashes.of_file(data.keys) if data.keys else "",
        "wonderwords": (
            "" if data.keys and "cwe" not in tasks else importlib.metadata.version("wonderwords")
        ),
        **sources.hashes_of(data.sources, data.haystack, tasks),
    }


def _cells(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    data = config.data
    samples = num_samples(data, default=SAMPLES)
    wrap = _wrap(data.template, tokenizer)
    bos = tokenizer.count_added(wrap[0] + "a")  # it counts too
    request: dict[str, Any] = {
        "seed": data.seed,
        "count_tokens": tokenizer.count,
        "wrap": wrap,
        "wraps_examples": data.template != CHAT,
        "keys": _keys(data.keys) if data.keys else None,
        "sources": sources.read(data.sources, data.haystack, _tasks(data), samples=samples),
    }
    for length in lengths(data):
        for name in _tasks(data):
            task = ruler.MODES[data.compat].tasks[name]
            most = config.generation.max_new_tokens or task.max_new_tokens
            request |= {"length": length, "max_new_tokens": most + bos}
            maker = ruler.maker(name, data.compat, **request)
            if sources.NEEDED.get(name) in (sources.SQUAD, sources.HOTPOTQA):
                maker.check(samples)  # whose documents are of any length
            shown = sources.label(name, data.haystack)
            yield Cell(shown, length, length, range(samples), maker.sample, most, task.metric)


def _wrap(template: str, tokenizer: Tokenizer) -> tuple[Prompt, Prompt]:
    """What a template has before a context and after a question."""
    if template != CHAT:
        before, after = ruler.TEMPLATES[template]
        return Prompt.template(before), Prompt.template(after)
    head, tail = tokenizer.chat("A", "B", date_string=DATE)
    return Prompt(head.parts[:-1]), Prompt(tail.parts[1:])  # without the user's


def _keys(path: str) -> list[str]:
    check_regular(path)
    try:
        with open(path, encoding="utf-8-sig") as file:  # some programs begin a file with a BOM
            keys = [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as e:
        raise ValueError(f"data.keys={path!r} is not text ({e.reason} at byte {e.start})") from e
    if not keys:
        raise ValueError(f"data.keys={path!r} has no keys; it takes one per line")
    return keys


SUITE = Suite(_check, lengths, _settings, _cells)
