"""The suites: where questions come from."""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from star_jax.eval import config as config_lib
from star_jax.eval import ruler
from star_jax.eval.config import DataConfig, EvalConfig
from star_jax.runs import hashes, jsonl
from star_jax.runs.jsonl import CHAT, DATE
from star_jax.runs.metrics import string_match_all
from star_jax.runs.places import check_regular
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

_MAX_NEW_TOKENS = 128  # where neither the configuration nor the task says


@dataclasses.dataclass(frozen=True)
class Cell:
    """One task at one length.

    length: in tokens; None where no length is given.
    whole: what L stands for in sizes; None if no size asks.
    indices: of the samples, in order.
    draw: makes the sample at a position of `indices`.
    metric: of a prediction and the reference answers, 0 to 1.
    """

    task: str
    length: int | None
    whole: int | None
    indices: Sequence[int]
    draw: Callable[[int], Sample]
    max_new_tokens: int
    metric: Callable[[str, Sequence[str]], float]


def cells(config: EvalConfig, tokenizer: Tokenizer) -> list[Cell]:
    """The cells of a run, shortest first as the configuration has them.

    Raises:
      OSError, ValueError: a data file cannot be read, or something in it is wrong.
    """
    make = {"jsonl": _jsonl, "ruler": _ruler}[config.data.suite]
    return list(make(config, tokenizer))


def settings(data: DataConfig) -> dict[str, Any]:
    """What of `data` the results depend on, as flat fields; the order of lists does not count."""
    lengths = sorted(length or 0 for length in config_lib.lengths(data))
    common = {
        "data.suite": data.suite,
        "data.lengths": lengths,
        "data.template": data.template,
    }
    if data.suite == "jsonl":
        found = {path: hashes.of_file(path) for path, _, _ in _files(data)}
        return common | {
            "data.path": {f"{task}@{length}": found[path] for path, task, length in _files(data)}
        }
    tasks = sorted(config_lib.tasks(data))
    return common | {
        "data.tasks": tasks,
        "data.seed": data.seed,
        "data.keys": hashes.of_file(data.keys) if data.keys else "",
        "wonderwords": (
            "" if data.keys and "cwe" not in tasks else importlib.metadata.version("wonderwords")
        ),
    }


def _ruler(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    data = config.data
    keys = _keys(data.keys) if data.keys else None
    wrap = _wrap(data.template, tokenizer)
    bos = tokenizer.count_added(wrap[0] + "a")  # it counts too
    for length in config_lib.lengths(data):
        for name in config_lib.tasks(data):
            task = ruler.TASKS[name]
            max_new_tokens = config.generation.max_new_tokens or task.max_new_tokens
            draw = functools.partial(
                _generate,
                task=name,
                length=length,
                seed=data.seed,
                count_tokens=tokenizer.count,
                max_new_tokens=max_new_tokens + bos,
                wrap=wrap,
                keys=keys,
            )
            indices = range(config_lib.num_samples(data, None))
            yield Cell(name, length, length, indices, draw, max_new_tokens, task.metric)


def _generate(position: int, **options: Any) -> Sample:
    return ruler.generate(index=position, **options)


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
        with open(path, encoding="utf-8") as file:
            keys = [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as e:
        raise ValueError(f"data.keys={path!r} is not text ({e.reason} at byte {e.start})") from e
    if not keys:
        raise ValueError(f"data.keys={path!r} has no keys; it takes one per line")
    return keys


def _jsonl(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    max_new_tokens = config.generation.max_new_tokens or _MAX_NEW_TOKENS
    read = functools.cache(jsonl.read)  # without {length} in the path, it is read once
    for path, task, length in _files(config.data):
        lines = read(path)
        samples = [line.sample for line in lines]
        if config.data.template == CHAT:
            samples = [jsonl.in_chat(line, tokenizer) for line in lines]
        whole = length
        if whole is None and config_lib.needs_length(config.attention):
            whole = max(len(tokenizer.encode_context(sample.context)) for sample in samples)
        samples = samples[: config_lib.num_samples(config.data, len(samples))]
        indices = [sample.index for sample in samples]
        yield Cell(
            task, length, whole, indices, samples.__getitem__, max_new_tokens, string_match_all
        )


def _files(data: DataConfig) -> Iterator[tuple[str, str, int | None]]:
    """(path, task, length) of each cell; without {task} in the path, the file names the task."""
    for length in config_lib.lengths(data):
        for task in config_lib.tasks(data) if "{task}" in data.path else ("",):
            path = data.path.replace("{task}", task).replace("{length}", str(length))
            stem = os.path.splitext(os.path.basename(path))[0]
            yield path, task or stem, length
