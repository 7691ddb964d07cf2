"""Numbers that are refused before they cost anything: no machine serves them, or not in a life."""

import math

MOST_POSITIONS = 2**31 - 1  # they are counted in 32 bits
_MOST_SAMPLES = 10**6  # of a task
_MOST_TOKENS = 2**24  # of a text that is made and tokenised on one host
_MOST_AT_ONCE = 4096  # questions; all are made and tokenised before the first is asked
_BEYOND = 16  # times the model's positions


def check_tokens(name: str, tokens: int, *, positions: int) -> None:
    """Refuses a number of tokens far beyond the model's positions; a little beyond is a warning.

    Raises:
      ValueError: it says `name` and the numbers.
    """
    if tokens > _BEYOND * positions:
        raise ValueError(
            f"{name}={tokens} is more than {_BEYOND} times the {positions} positions of the model"
        )
    if tokens > _MOST_TOKENS:
        raise ValueError(f"{name}={tokens} is above {_MOST_TOKENS} tokens")


def check_samples(name: str, samples: int) -> None:
    """Refuses a number of questions that nobody will wait for."""
    if samples > _MOST_SAMPLES:
        raise ValueError(f"{name}={samples} is above {_MOST_SAMPLES} questions")


def check_batch(name: str, size: int, *, questions: int) -> None:
    """Refuses a batch that would keep the devices waiting; one beyond all questions is all."""
    if min(size, questions) > _MOST_AT_ONCE:
        raise ValueError(f"{name}={size} is above {_MOST_AT_ONCE} questions at once")


def check_finite(name: str, value: float | int) -> None:
    """Refuses NaN and infinities, which pass many a comparison."""
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a finite number")
