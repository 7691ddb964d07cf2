"""What the commands of both benchmarks have in common."""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

_MOST = 2**24  # tokens; their ids and activations are made on one machine


def integers(name: str, values: Sequence[str]) -> list[int]:
    """The values of a flag that is a list.

    Raises:
      ValueError: they are not positive integers, or beyond what any machine serves.
    """
    try:
        found = [int(value) for value in values]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--{name}={','.join(values)} must be integers, at least 1")
    if max(found) > _MOST:
        raise ValueError(f"--{name}={max(found)} is above {_MOST}")
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


def last_written(
    records: Iterable[dict[str, Any]], out: pathlib.Path | None, *, void: type[Exception]
) -> dict[str, Any]:
    """Writes each record over the one before: what is measured stays if the machine does not.

    After an exception of the type `void` none of it counts, and there is no file.
    """
    record: dict[str, Any] = {}
    try:
        for record in records:
            if out is not None:
                new = out.with_name(out.name + ".new")
                new.write_text(json.dumps(record, indent=1) + "\n")
                new.replace(out)  # never half of it
    except void:
        if out is not None:
            out.unlink(missing_ok=True)
        raise
    return record
