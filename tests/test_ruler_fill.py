"""Samples fill their length with tokenizers of several kinds; tests/large has more of them."""

from collections.abc import Callable

import pytest
import ruler_fill
from further import further
from ruler_samples import TASKS

from tools import smollm2

Counter = Callable[[str], int]


@pytest.fixture(scope="module", params=["trained", "smollm2", *further("needle", "sentencepiece")])
def chosen(request: pytest.FixtureRequest) -> tuple[Counter, list[int]]:
    """A kind, and lengths that hold all tasks with its tokens."""
    try:
        counter = ruler_fill.KINDS[request.param]()
    except smollm2.Unavailable as e:
        # No network is no defect of ours; the end of the run says loudly what was not tested.
        pytest.skip(f"NOT TESTED: RULER's lengths with SmolLM2's tokenizer: {e}")
    return counter, [8192] if request.param == "sentencepiece" else [2048, 8192]


@pytest.mark.parametrize("task", TASKS)
def test_samples_fill_their_length(chosen: tuple[Counter, list[int]], task: str) -> None:
    counter, lengths = chosen
    for length in lengths:
        fill = ruler_fill.measure(counter, task, length, 2)
        assert ruler_fill.bound(counter, task, length) <= fill.least
        assert fill.most <= 1
        assert fill.counts <= 4


@pytest.mark.parametrize("mode", ["star", *further("ruler")])
@pytest.mark.parametrize("task", TASKS)
def test_the_published_modes_fit_too(task: str, mode: str) -> None:
    """But the frequent words of Star Attention's scripts, which are too long on purpose."""
    fill = ruler_fill.measure(ruler_fill.KINDS["needle"](), task, 8192, 2, mode)
    assert (fill.most > 1) == ((task, mode) == ("fwe", "star"))
