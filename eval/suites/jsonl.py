"""Questions from files of JSON lines, in the format of the reference implementation."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from star_jax.eval import metrics
from star_jax.eval.lists import check_known, check_name, items, lengths, num_samples
from star_jax.eval.rows import needs_length
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites.suite import Cell, Suite
from star_jax.runs import hashes, jsonl
from star_jax.runs.metrics import Metric
from star_jax.runs.terminal import say
from star_jax.text.tokenizer import Tokenizer

_MAX_NEW_TOKENS = 128  # where the configuration does not say


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
    max_new_tokens = config.generation.max_new_tokens or _MAX_NEW_TOKENS
    metric = metrics.named(config.data.metric)
    read = functools.cache(jsonl.read)  # without {length} in the path, it is read once
    for path, task, length in _files(config.data):
        lines = read(path)
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
        yield Cell(task, length, whole, indices, draw, max_new_tokens, metric=metric)


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
