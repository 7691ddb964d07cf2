"""Two hundred samples of every task and length fill it; five minutes of one core."""

import pytest
import ruler_fill
import tokenizers
from ruler_samples import TASKS


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return ruler_fill.train()


@pytest.mark.parametrize("length", ruler_fill.LENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_samples_fill_their_length(tokenizer: tokenizers.Tokenizer, task: str, length: int) -> None:
    fill = ruler_fill.measure(tokenizer, task, length, 200)
    print(f"{task} {length}: {fill}")
    assert ruler_fill.bound(task, length) <= fill.least
    assert fill.most <= 1
    assert fill.counts <= 16
