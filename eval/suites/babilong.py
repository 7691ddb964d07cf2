"""BABILong: questions from its files; without any, its first five tasks are generated."""

import functools
from collections.abc import Iterator
from typing import Any

from star_jax.eval.babilong import files, prompts
from star_jax.eval.babilong.generate import TASKS, generate
from star_jax.eval.babilong.metric import COMPARE_ANSWERS
from star_jax.eval.fitting import GENERATED, TEMPLATES, Frame
from star_jax.eval.lists import check_known, given_lengths, items, num_samples
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites.suite import Cell, Suite
from star_jax.runs import hashes, limits
from star_jax.runs.sample import Sample
from star_jax.text.tokenizer import Tokenizer

SAMPLES = 1000  # of each task that is generated, as the data set has them
_MAX_NEW_TOKENS = 20  # as BABILong has it


def _check(data: DataConfig) -> None:
    limits.check_samples("data.num_samples", data.num_samples)
    check_known("data.template", data.template, TEMPLATES)
    for task in _tasks(data):
        check_known("data.tasks", task, tuple(prompts.PROMPTS))
        if not data.path and task not in TASKS:
            raise ValueError(
                f"data.tasks: {task} is not generated, as {', '.join(TASKS)} are: give data.path, "
                "the directory of BABILong's files"
            )
    for length in given_lengths(data):
        if data.path:
            files.name_of(length)


def _tasks(data: DataConfig) -> tuple[str, ...]:
    return items("data.tasks", data.tasks) if data.tasks else TASKS


def _settings(data: DataConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"data.tasks": sorted(_tasks(data))}
    if not data.path:
        return {**settings, "data.path": "", "data.seed": data.seed}
    found = {
        f"{task}@{length}": [hashes.of_file(path) for path in files.paths(data.path, task, length)]
        for length in given_lengths(data)
        for task in _tasks(data)
    }
    return {**settings, "data.path": found}


def _cells(config: EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
    data = config.data
    most = config.generation.max_new_tokens or _MAX_NEW_TOKENS
    for length in given_lengths(data):
        frame = Frame.make(data.template, tokenizer, length=length, max_new_tokens=most)
        for task in _tasks(data):
            if data.path:
                source = files.read(files.paths(data.path, task, length), task, frame)
                name, draw = task, source.sample
                indices = source.indices[: num_samples(data, default=len(source.indices))]
            else:
                name, indices = task + GENERATED, range(num_samples(data, default=SAMPLES))
                draw = functools.partial(_generate, task=task, seed=data.seed, frame=frame)
            yield Cell(name, length, length, indices, draw, most, COMPARE_ANSWERS)


def _generate(position: int, *, task: str, seed: int, frame: Frame) -> Sample:
    return generate(task, position, seed=seed, frame=frame)


SUITE = Suite(_check, given_lengths, _settings, _cells)
