"""Documents: the text of .txt, .md and .jsonl files, and of standard input."""

import json
import os
import sys

from star_jax.printable import printable
from star_jax.runs import places

STDIN = "-"
MOST = 2**28  # bytes: some 60 million tokens


def read(path: str) -> str:
    """The text of a document, without the space around it; - is standard input.

    The lines of a .jsonl file are objects with a "text", or strings; a blank line is put between
    their texts. Every other file is text as it is.

    Raises:
      ValueError: it is no text in UTF-8, or empty, or too long; a line of a .jsonl file is
        something else.
      OSError: it cannot be read.
    """
    name = "the standard input" if path == STDIN else printable(path)
    if path == STDIN:
        data = sys.stdin.buffer.read(MOST + 1)
    else:
        places.check_regular(path)
        with open(path, "rb") as file:
            data = file.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError(f"{name} has more than {MOST} bytes: no model reads as much")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{name} is no text in UTF-8: {e.reason} at byte {e.start}") from e
    if "\0" in text:
        raise ValueError(f"{name} is no text: it has null characters")
    if os.path.splitext(path)[1].lower() == ".jsonl":
        text = "\n\n".join(_texts(text, name))
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text.strip()


def _texts(lines: str, name: str) -> list[str]:
    """The texts of JSON lines."""
    found = []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{name}, line {number}: this is no JSON") from e
        text = given.get("text") if isinstance(given, dict) else given
        if not isinstance(text, str):
            raise ValueError(f'{name}, line {number}: no string, and no object with a "text"')
        found.append(text.strip())
    return found
