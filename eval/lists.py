"""What the texts of a configuration mean: comma lists, and numbers in them."""

import re
from collections.abc import Sequence
from typing import Any

from star_jax.eval.settings import DataConfig
from star_jax.runs import limits


def items(field: str, value: Any) -> tuple[str, ...]:
    """The items of a comma list, each once; a config file may also give a tuple or one number.

    Raises:
      ValueError: it is none of these, or has an empty item.
    """
    if not isinstance(value, str | int | float | Sequence):
        raise ValueError(f"{field}={value!r} is no comma list: write it like a,b,c")
    parts = value.split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int | float) else parts
    found = tuple(dict.fromkeys(str(part).strip() for part in parts))
    if not all(found) or not found:
        raise ValueError(f"{field}={value!r} has an empty item: write it like a,b,c")
    return found


def lengths(data: DataConfig) -> tuple[int | None, ...]:
    """The lengths in tokens; one None where none are given."""
    if not data.lengths:
        return (None,)
    found = items("data.lengths", data.lengths)
    for text in found:
        if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
            raise ValueError(f"data.lengths: {text!r} is not a number of tokens above 0")
        # Before sizes are made of it, whose errors would name them.
        if len(text) > 18 or int(text) > limits.MOST_POSITIONS:
            raise ValueError(f"data.lengths: {text[:18]} is above {limits.MOST_POSITIONS} tokens")
    return tuple(dict.fromkeys(map(int, found)))  # 512 may be spelled 0512, too


def given_lengths(data: DataConfig) -> tuple[int, ...]:
    """The lengths in tokens, where there must be some."""
    found = tuple(length for length in lengths(data) if length is not None)
    if not found:
        raise ValueError("data.lengths is empty: give some, like 4096,16384")
    return found


def num_samples(data: DataConfig, *, default: int) -> int:
    """How many samples of a task to take, at most."""
    return default if data.num_samples == -1 else data.num_samples


def check_name(field: str, value: str) -> None:
    """Refuses what cannot be a part of a path: results would be written somewhere else."""
    if value in ("", ".", "..") or "/" in value or "\0" in value:
        raise ValueError(f"{field}: {value!r} is not a name: files are called by it")


def check_known(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{field}: {value!r} is unknown; there is {', '.join(known)}")
