"""A hundred samples of every task and length fill it; ten minutes of one core.

tests/ruler_fill.py is a script, too, for other tokenizers, modes, lengths and numbers of samples.
"""

from collections.abc import Callable

import pytest
import ruler_fill
from ruler_samples import TASKS


@pytest.fixture(scope="module")
def counter() -> Callable[[str], int]:
    return ruler_fill.KINDS["trained"]()


@pytest.mark.parametrize("length", ruler_fill.LENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_samples_fill_their_length(counter: Callable[[str], int], task: str, length: int) -> None:
    fill = ruler_fill.measure(counter, task, length, 100)
    print(f"{task} {length}: {fill}")
    assert ruler_fill.bound(counter, task, length) <= fill.least
    assert fill.most <= 1
    assert fill.counts <= 4
