"""What the flags of both benchmarks have in common."""

import pathlib
from collections.abc import Sequence


def integers(name: str, values: Sequence[str]) -> list[int]:
    """The values of a flag that is a list.

    Raises:
      ValueError: they are not positive integers.
    """
    try:
        found = [int(value) for value in values]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--{name}={','.join(values)} must be integers, at least 1")
    return found


def out_path(value: str | None) -> pathlib.Path | None:
    """Where results go; refused before anything is measured rather than after.

    Raises:
      ValueError: there is no such directory.
    """
    if value is None:
        return None
    path = pathlib.Path(value)
    if not path.parent.is_dir():
        raise ValueError(f"--out={path}: {path.parent} is not a directory")
    return path
