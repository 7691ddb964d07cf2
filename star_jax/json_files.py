"""JSON that others wrote, read so that whatever it holds is an object or one line of error.

Also how to show what comes from such a file, so that it cannot steer a terminal.
"""

import collections
import errno
import json
import os
import reprlib
import stat
from typing import Any

from star_jax.printable import printable

LIMIT = 64 * 2**20  # bytes; the largest that are known, indexes of weights, have less than one
_SHOWN = 300  # characters of a name


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a file that holds a JSON object.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not a regular file, too large, not UTF-8, not JSON, no object, nested
        too deep, or says a field twice. Names the file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or a pipe would be waited for
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise ValueError(f"{printable(os.fspath(path))}: not a regular file")
    with open(descriptor, "rb") as file:
        text = file.read(LIMIT + 1)
    try:
        return parse(text)
    except ValueError as e:
        raise ValueError(f"{printable(os.fspath(path))}: {e}") from e


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file.

    Raises:
      ValueError: there is something else, which would be taken for nothing: a directory, a pipe,
        a link to nothing.
    """
    if not os.path.isfile(path) and os.path.lexists(path):
        raise ValueError(f"{printable(os.fspath(path))}: not a regular file")
    return os.path.isfile(path)


def parse(text: bytes, *, limit: int | None = None) -> dict[str, Any]:
    """The fields of a JSON object; see `read`. NaN and Infinity are numbers here.

    limit: of bytes; None: LIMIT.

    Raises:
      ValueError: says what is wrong, and begins with "not".
    """
    limit = LIMIT if limit is None else limit
    if len(text) > limit:
        raise ValueError(f"not read: more than {limit} bytes of JSON")
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as e:
        raise ValueError("not read: its JSON is nested too deep") from e
    except _Twice:
        raise
    except ValueError as e:  # JSON, UTF-8, a number of thousands of digits
        raise ValueError(f"not JSON ({printable(str(e))})") from e
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but a {type(fields).__name__}")
    return fields


class _Twice(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        raise _Twice(f"not unique: duplicate {shown([n for n in counts if counts[n] > 1])}")
    return fields


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _SHOWN
        self.maxlist = self.maxtuple = self.maxdict = 12
        self.maxlevel = 4


_repr = _Repr()


def shown(value: Any) -> str:
    """The `repr` of a value, cut where it is long or deep."""
    return printable(_repr.repr(value))
