"""What a suite is: where questions come from, how they are put, and how answers are scored."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.runs.metrics import MATCH_ALL, Metric
from star_jax.runs.sample import Sample
from star_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Cell:
    """One task at one length.

    length: in tokens; None where no length is given.
    whole: what L stands for in sizes; None if no size asks.
    indices: of the samples, in order.
    draw: makes the sample at a position of `indices`, with its prompt.
    metric: what scores a prediction.
    """

    task: str
    length: int | None
    whole: int | None
    indices: Sequence[int]
    draw: Callable[[int], Sample]
    max_new_tokens: int
    metric: Metric = MATCH_ALL


@dataclasses.dataclass(frozen=True)
class Suite:
    """All that the evaluation asks a suite for; each suite is a file that ends in one of these.

    check: raises ValueError for settings that cannot be. It reads no file.
    lengths: those of the questions, in tokens; one None where the questions have none.
    settings: what the results depend on, as flat fields; the order of lists does not count.
    cells: the cells of a run, shortest first as the configuration has them. It raises OSError or
      ValueError where a data file cannot be read, or something in it is wrong.
    """

    check: Callable[[DataConfig], None]
    lengths: Callable[[DataConfig], tuple[int | None, ...]]
    settings: Callable[[DataConfig], dict[str, Any]]
    cells: Callable[[EvalConfig, Tokenizer], Iterator[Cell]]
