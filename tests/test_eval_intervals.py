"""Intervals: known values, how often they hold, and that they never claim certainty."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from further import further

from star_jax.eval import intervals

Scores = list[float]
RUNS = 500


def test_known_values() -> None:
    for good, expected in ((8, (0.4902, 0.9433)), (0, (0.0, 0.2775)), (10, (0.7225, 1.0))):
        scores = [1.0] * good + [0.0] * (10 - good)
        assert intervals.of_mean(scores) == pytest.approx(expected, abs=1e-4)  # Wilson's
    # Clopper and Pearson's of all right is 0.025 ** (1 / n): here almost all.
    low, high = intervals.of_mean([1.0] * 31 + [1 - 1e-9])
    assert low == pytest.approx(0.025 ** (1 / 32), abs=1e-6)
    assert high == pytest.approx(1.0)


def test_ties_are_no_certainty() -> None:
    for n, score in itertools.product((2, 32, 500), (0.0, 1.0, 0.5)):
        low, high = intervals.of_difference([score] * n, [score] * n)
        assert low < -1 / n < 1 / n < high
        assert low >= -1 and high <= 1
        assert low == pytest.approx(-high)
    low, high = intervals.of_difference([1.0] * 32, [1.0] * 32)
    assert 0.08 < high < 0.16


def test_no_interval_has_width_0() -> None:
    rng = np.random.default_rng(0)
    levels = [0.0, 0.2, 0.5, 1.0]
    for _ in range(300):
        n = int(rng.integers(2, 6))
        ours, theirs = (rng.choice(levels[:: int(rng.choice([1, 3]))], n).tolist() for _ in "ab")
        low, high = intervals.of_mean(ours)
        assert 0 <= low <= np.mean(ours) + 1e-9 and np.mean(ours) - 1e-9 <= high <= 1
        assert high - low > 0.1
        low, high = intervals.of_difference(ours, theirs)
        assert -1 <= low <= np.mean(ours) - np.mean(theirs) <= high <= 1
        assert high - low > 0.1
        assert intervals.of_difference(theirs, ours) == pytest.approx((-high, -low))


def holds(
    draw: Callable[[np.random.Generator], tuple[Scores, ...]], truth: float, method: Callable
) -> float:
    """How often the interval of drawn scores has the truth in it."""
    rng, count = np.random.default_rng(1), 0
    for _ in range(RUNS):
        low, high = method(*draw(rng))
        count += low - 1e-12 <= truth <= high + 1e-12
    return count / RUNS


@pytest.mark.parametrize("n", [8, 32, 100])
@pytest.mark.parametrize(
    ("parts", "share"), [(1, 0.5), (1, 0.8), (1, 0.97), (5, 0.5), (5, 0.95), (10, 0.99)]
)
def test_how_often_the_interval_of_a_mean_holds(n: int, parts: int, share: float) -> None:
    """Scores are shares of `parts`, each of which is found or not."""

    def draw(rng: np.random.Generator) -> tuple[Scores]:
        return ((rng.binomial(parts, share, n) / parts).tolist(),)

    # Wilson's holds in 93.0% of samples of 8 at 0.5, and this is a sample of samples.
    assert holds(draw, share, intervals.of_mean) >= (0.91 if parts == 1 else 0.95)


@pytest.mark.parametrize("n", [32, *further(8, 100)])
@pytest.mark.parametrize(
    ("up", "down", "both"),
    [
        (0, 0.03, 0.97),
        (0, 0.03, 0.9),
        (0.01, 0.03, 0.9),
        (0.005, 0.005, 0.9),
        (0.02, 0.02, 0.1),
        (0.1, 0.1, 0.5),
        (0, 0.3, 0.6),
    ],
)
@pytest.mark.parametrize("part", [1.0, *further(0.8)])
def test_how_often_the_interval_of_a_difference_holds(
    n: int, up: float, down: float, both: float, part: float
) -> None:
    """Questions rise or fall by `part` of a score."""
    kinds = np.array([[1, 1 - part], [1 - part, 1], [1, 1], [1 - part, 1 - part]])

    def draw(rng: np.random.Generator) -> tuple[Scores, Scores]:
        picked = kinds[rng.choice(4, n, p=[up, down, both, 1 - up - down - both])]
        return picked[:, 0].tolist(), picked[:, 1].tolist()

    assert holds(draw, (up - down) * part, intervals.of_difference) >= 0.93
