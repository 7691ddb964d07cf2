"""InfiniteBench: questions from its files; without any, its synthetic tasks are generated."""

import functools
from collections.abc import Iterator
from typing import Any

from star_jax.eval import text_metrics
from star_jax.eval.fitting import GENERATED, TEMPLATES, Frame
from star_jax.eval.infinitebench import files, generate, tasks
from star_jax.eval.infinitebench.metrics import METRICS
from star_jax.eval.lists import check_known, given_lengths, items, num_samples
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites.suite import Cell, Suite
from star_jax.runs import hashes, limits
from star_jax.runs.sample import Sample
from star_jax.text.tokenizer import Tokenizer

SAMPLES = 500  # of each task that is generated


def _check(data: DataConfig) -> None:
    limits.check_samples("data.num_samples", data.num_samples)
    check_known("data.template", data.template, TEMPLATES)
    for task in _tasks(data):
        check_known("data.tasks", task, tuple(tasks.TASKS))
        if not data.path and task not in generate.TASKS:
            raise ValueError(
                f"data.tasks: {task} is not generated, as {', '.join(generate.TASKS)} are: give "
                "data.path, the directory of InfiniteBench's files"
            )
    given_lengths(data)


def _tasks(data: DataConfig) -> tuple[str, ...]:
    if data.tasks:
        return items("data.tasks", data.tasks)
    return tasks.PAPER if data.path else tuple(t for t in tasks.PAPER if t in generate.TASKS)


def _settings(data: DataConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"data.tasks": sorted(_tasks(data))}
    if not data.path:
        return {**settings, "data.path": "", "data.seed": data.seed}
    found = {task: hashes.of_file(files.path_of(data.path, task)) for task in _tasks(data)}
    return {**settings, "data.path": found}


def _cells(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    data = config.data
    paths = {task: files.path_of(data.path, task) for task in _tasks(data) if data.path}
    if "longbook_sum_eng" in paths:
        text_metrics.check_rouge()
    for length in given_lengths(data):
        for task in _tasks(data):
            most = config.generation.max_new_tokens or tasks.TASKS[task].max_new_tokens
            frame = Frame.make(data.template, tokenizer, length=length, max_new_tokens=most)
            metric = METRICS[task]
            if data.path:
                asked = None if data.num_samples == -1 else data.num_samples
                source = files.Source(paths[task], task, frame, samples=asked)
                yield Cell(task, length, length, source.indices, source.sample, most, metric)
            else:
                drawn = range(num_samples(data, default=SAMPLES))
                draw = functools.partial(_generate, task=task, seed=data.seed, frame=frame)
                yield Cell(task + GENERATED, length, length, drawn, draw, most, metric)


def _generate(position: int, *, task: str, seed: int, frame: Frame) -> Sample:
    return generate.generate(task, position, seed=seed, frame=frame)


SUITE = Suite(_check, given_lengths, _settings, _cells)
