"""Safetensors files, read lazily: headers first, then only the bytes that are asked for.

The format: eight bytes with the header's length, a JSON header (name -> dtype, shape, and
the range of its bytes), then the bytes. A checkpoint is one such file, or several with an
index that says which tensor lies in which.
"""

import dataclasses
import json
import math
import os
import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = (SINGLE, INDEX)

DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on disk. `dtype` is the file's own word for it, `offset` is in bytes."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def map(self) -> np.ndarray:
        """A view of the file: bytes are read where the view is."""
        size = math.prod(self.shape) * DTYPES[self.dtype].itemsize
        if size == 0:
            return np.zeros(self.shape, DTYPES[self.dtype])
        raw = np.memmap(self.path, np.uint8, mode="r", offset=self.offset, shape=(size,))
        return raw.view(DTYPES[self.dtype]).reshape(self.shape)


class Scan(NamedTuple):
    """What the files of a checkpoint hold, and everything that is wrong with them."""

    tensors: dict[str, Tensor]
    problems: list[str]
    unread: set[str]  # tensors that the index knows, in files that cannot be read


def scan(directory: str) -> Scan:
    """Reads the headers of a checkpoint's files.

    Raises:
      FileNotFoundError: there is neither a single file nor an index.
    """
    found = Scan({}, [], set())
    placed = _placed(directory, found.problems)
    for file in dict.fromkeys([SINGLE] if placed is None else placed.values()):
        try:
            tensors = _read_header(os.path.join(directory, file))
        except (OSError, ValueError) as e:
            found.problems.append(f"{file}: {_reason(e)}")
            found.unread.update(name for name, f in (placed or {}).items() if f == file)
            continue
        for name in found.tensors.keys() & tensors.keys():
            other = os.path.basename(found.tensors[name].path)
            found.problems.append(f"{name}: duplicate, in {other} and in {file}")
        found.tensors.update(tensors)
    for name, file in (placed or {}).items():
        if name not in found.tensors and name not in found.unread:
            found.problems.append(f"{name}: not in {file}, where {INDEX} puts it")
            found.unread.add(name)
    return found


def _placed(directory: str, problems: list[str]) -> dict[str, str] | None:
    """Tensor -> file by the index; None without one, for a single file."""
    if os.path.isfile(os.path.join(directory, SINGLE)):
        return None
    path = os.path.join(directory, INDEX)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no {SINGLE} and no {INDEX} in {directory}: only safetensors are read"
        )
    try:
        with open(path, encoding="utf-8") as f:
            placed = _json(f.read())["weight_map"]
        if not all(isinstance(file, str) for file in placed.values()):
            raise ValueError("weight_map must map names to files")
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        problems.append(f"{INDEX}: {_reason(e)}")
        return {}
    return placed


def _read_header(path: str) -> dict[str, Tensor]:
    """Raises ValueError when the header cannot be read, or speaks of bytes that are not there."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        prefix = f.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= size - 8:
            raise ValueError(f"torn: {size} bytes do not hold its header")
        header = _json(f.read(length).decode("utf-8"))
    header.pop("__metadata__", None)
    try:
        tensors = {name: _tensor(path, field, 8 + length) for name, field in header.items()}
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"torn: not a safetensors header ({e!r})") from e
    end = 8 + length + max((int(f["data_offsets"][1]) for f in header.values()), default=0)
    if end != size:
        raise ValueError(f"torn: {size} bytes, and its header speaks of {end}")
    return tensors


def _tensor(path: str, field: dict[str, Any], base: int) -> Tensor:
    begin, end = field["data_offsets"]
    tensor = Tensor(path, field["dtype"], tuple(field["shape"]), base + begin)
    known = DTYPES.get(tensor.dtype)
    if known is not None and math.prod(tensor.shape) * known.itemsize != end - begin:
        raise ValueError(f"torn: {end - begin} bytes for {tensor.dtype}{list(tensor.shape)}")
    return tensor


def _json(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate {sorted({n for n in names if names.count(n) > 1})}")
    return fields


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file, though the index names it"
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"torn: not JSON ({error})"
    return str(error)
