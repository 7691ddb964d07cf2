"""Files of JSON lines that are too large to be held: where each line begins is kept alone."""

import codecs
from typing import Any

from star_jax import json_files


def read_at(path: str, start: int) -> dict[str, Any]:
    """The fields of the line that begins at a byte of a file, which has been read before.

    Raises:
      OSError, ValueError: the file is another one by now.
    """
    with open(path, "rb") as file:
        file.seek(start)
        text = file.readline()
    if not start:
        text = text.removeprefix(codecs.BOM_UTF8)
    try:
        return json_files.parse(text, limit=len(text))
    except ValueError as e:
        raise ValueError(f"{path}: changed while it is used: {e}") from e
