"""Questions from files of JSON lines, in the format of the reference implementation."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from star_jax.eval import metrics, ruler
from star_jax.eval.lists import check_known, check_name, items, lengths, num_samples
from star_jax.eval.rows import needs_length
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites.suite import Cell, Suite
from star_jax.runs import hashes, jsonl
from star_jax.runs.metrics import Metric
from star_jax.runs.terminal import say
from star_jax.text.tokenizer import Tokenizer

_MAX_NEW_TOKENS = 128  # where nothing says how many


def _check(data: DataConfig) -> None:
    if not data.path:
        raise ValueError("data.path is empty: data.suite='jsonl' reads a file")
    for name in ("task", "length"):
        if f"{{{name}}}" in data.path and not getattr(data, f"{name}s"):
            raise ValueError(f"data.path={data.path!r} needs data.{name}s")
    for task in items("data.tasks", data.tasks) if "{task}" in data.path else ():
        check_name("data.tasks", task)
    metrics.check(data.metric)
    check_known("data.template", data.template, jsonl.TEMPLATES)


def _lengths(data: DataConfig) -> tuple[int | None, ...]:
    return lengths(data) if "{length}" in data.path else (None,)


def _settings(data: DataConfig) -> dict[str, Any]:
    found = {path: hashes.of_file(path) for path, _, _ in _files(data)}
    return {"data.path": {f"{task}@{length}": found[path] for path, task, length in _files(data)}}


def _cells(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    read = functools.cache(jsonl.read)  # without {length} in the path, it is read once
    for path, task, length in _files(config.data):
        lines = read(path)
        metric, most = _usual(config.data, task, lines[0])
        metric = metrics.named(config.data.metric) if config.data.metric else metric
        most = config.generation.max_new_tokens or most
        if metric.is_forced:
            _check_references(lines, metric)
        template = config.data.template
        if template == "base" and jsonl.spells_special(lines[0], tokenizer):
            say(f"{path} spells special tokens, as text: data.template=rendered reads the tokens")
        samples = [jsonl.in_template(line, template, tokenizer) for line in lines]
        whole = length
        if whole is None and needs_length(config.attention):
            whole = max(len(tokenizer.encode_context(sample.context)) for sample in samples)
        samples = samples[: num_samples(config.data, default=len(samples))]
        indices = [sample.index for sample in samples]
        draw = samples.__getitem__
        yield Cell(task, length, whole, indices, draw, most, metric=metric)


def is_rulers(data: DataConfig, task: str) -> bool:
    """Whether a task is one of RULER's, by its name: `{task}` in the path has it."""
    return "{task}" in data.path and task in ruler.NAMES


def _usual(data: DataConfig, task: str, line: jsonl.Line) -> tuple[Metric, int]:
    """Metric and number of new tokens of a file that begins with this line.

    RULER's tasks have those of the scripts that write such lines: RULER's, or Star Attention's.
    """
    if not is_rulers(data, task):
        return metrics.named(""), _MAX_NEW_TOKENS
    found = ruler.MODES["ruler" if line.is_whole else "star"].tasks[task]
    return found.metric, found.max_new_tokens


def _check_references(lines: Sequence[jsonl.Line], metric: Metric) -> None:
    for line in lines:
        if not line.sample.outputs:
            raise ValueError(f"{line.place}: no 'outputs', which {metric.name} is measured of")


def _files(data: DataConfig) -> Iterator[tuple[str, str, int | None]]:
    """(path, task, length) of each cell; without {task} in the path, the file names the task."""
    for length in _lengths(data):
        for task in items("data.tasks", data.tasks) if "{task}" in data.path else ("",):
            path = data.path.replace("{task}", task).replace("{length}", str(length))
            stem = os.path.splitext(os.path.basename(path))[0]
            yield path, task or stem, length


SUITE = Suite(_check, _lengths, _settings, _cells)
