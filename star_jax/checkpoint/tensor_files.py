"""Safetensors files, read lazily: headers first, then only the slices that are asked for.

A checkpoint is one such file, or several with an index that says which tensor lies in which.
The `safetensors` library reads them, and refuses a header that does not account for every byte
of its file, once.
"""

import dataclasses
import glob
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from star_jax import json_files
from star_jax.json_files import shown
from star_jax.models.quantization import only_gguf

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = (SINGLE, INDEX)
_SHARDS = "model-*-of-*.safetensors"  # as they are named where an index is beside them

DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
_IN_8_BITS = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "I8": np.dtype(np.int8)}
_PIECE = 64 * 2**20  # bytes that are read at a time
_REASON = 200  # characters


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on disk. `dtype` is the file's own word for it; scaled, it is F32."""

    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: "Scale | None" = None

    @property
    def parts(self) -> tuple[tuple["Tensor", int, int], ...]:
        return ((self, 0, self.shape[0]),)


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a matrix in 8 bits is multiplied by: a number for each block of it.

    tensor: the numbers. stored: the dtype of the matrix in its file. block: rows and columns that
    share a number; the last ones may be cut.
    """

    tensor: Tensor
    stored: str
    block: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of tensors on disk, one after another: of each part those from a first to an end."""

    parts: tuple[tuple[Tensor, int, int], ...]

    @property
    def dtype(self) -> str:
        return self.parts[0][0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(end - first for _, first, end in self.parts), *self.parts[0][0].shape[1:])


class Scan(NamedTuple):
    """What the files of a checkpoint hold, and everything that is wrong with them."""

    tensors: dict[str, Tensor]
    problems: list[str]
    unread: set[str]  # tensors that the index knows, in files that cannot be read


def read(
    tensor: Tensor | Rows,
    index: tuple[slice, ...],
    dtype: np.dtype,
    *,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """A slice of a tensor, cast to `dtype`. Beside it, memory is needed for a piece of it.

    With `shape` the slice is one of the tensor in that shape, which may have heads and head
    dimension on axes of their own. The file is mapped while it is read, and no longer.

    Raises:
      ValueError: the file is no longer what it was.
    """
    bounds = bounds_of(index, shape or tensor.shape)
    sizes = [end - begin for begin, end in bounds]
    if shape is not None and len(shape) > len(tensor.shape):
        bounds = _joined(bounds, shape, tensor.shape)
    found = np.empty([end - begin for begin, end in bounds], dtype)
    if not found.size:
        return found.reshape(sizes)
    (first, end), others = bounds[0], tuple(slice(*bound) for bound in bounds[1:])
    at = 0  # the row at which a part begins
    for part, begin, stop in tensor.parts:
        low, high = max(first, at), min(end, at + stop - begin)
        if low < high:
            _read_rows(part, low - at + begin, others, found[low - first : high - first])
        at += stop - begin
    return found.reshape(sizes)


def _read_rows(tensor: Tensor, first: int, others: tuple[slice, ...], into: np.ndarray) -> None:
    """Fills an array with rows from the first on, of which `others` say what is taken."""
    row = math.prod(into.shape[1:]) * DTYPES[tensor.dtype].itemsize
    at = [
        ((slice(begin, stop), *others), slice(begin - first, stop - first))
        for begin, stop in pieces(first, first + len(into), max(1, _PIECE // row))
    ]
    try:
        if (scale := tensor.scale) is not None:
            codes, numbers = _mapped(tensor), scales(scale)
            for index, there in at:
                into[there] = _scaled(codes[index], numbers, index, scale)
            return
        with safetensors.safe_open(tensor.path, "np") as file:
            source = file.get_slice(tensor.name)
            for index, there in at:
                into[there] = source[index]
    except safetensors.SafetensorError as e:
        raise ValueError(f"{tensor.name}: {_reason(e)}") from e


def _mapped(tensor: Tensor) -> np.ndarray:
    """The bytes of a matrix in 8 bits: of FP8, the library makes no arrays for NumPy."""
    with safetensors.safe_open(tensor.path, "np") as file:
        shape = file.get_slice(tensor.name).get_shape()
    with open(tensor.path, "rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        begin, end = json_files.parse(raw.read(size))[tensor.name]["data_offsets"]
    if (tuple(shape), end - begin) != (tensor.shape, math.prod(shape)):
        raise ValueError(f"{tensor.name}: {tensor.path} is no longer what it was")
    return np.memmap(tensor.path, np.uint8, "r", offset=8 + size + begin, shape=tensor.shape)


def scales(scale: Scale) -> np.ndarray:
    """The numbers, [blocks down, blocks across] in float32. They are few: all are read."""
    with safetensors.safe_open(scale.tensor.path, "np") as file:
        numbers = file.get_tensor(scale.tensor.name).astype(np.float32)
    return numbers if numbers.ndim == 2 else numbers.reshape(1, 1)


def _scaled(
    codes: np.ndarray, numbers: np.ndarray, index: tuple[slice, ...], scale: Scale
) -> np.ndarray:
    """The values at `index` of a matrix, in float32, each times the number of its block."""
    rows, columns = (
        np.arange(i.start, i.stop) // n for i, n in zip(index, scale.block, strict=True)
    )
    # A table of all that 8 bits can be: casting value by value takes three times as long.
    table = np.arange(256, dtype=np.uint8).view(_IN_8_BITS[scale.stored]).astype(np.float32)
    found = table[codes]
    found *= np.take(numbers[rows], columns, axis=1)
    return found


def _joined(
    bounds: list[tuple[int, int]], shape: tuple[int, ...], flat: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Bounds in a shape whose axes `at` and `at + 1` are one in the file; of the second, all."""
    at = next((i for i, size in enumerate(flat) if shape[i] != size), len(flat) - 1)
    (begin, end), inner = bounds[at], shape[at + 1]
    if bounds[at + 1] != (0, inner):
        raise ValueError(f"{bounds=} cut a head of {shape=}")
    return [*bounds[:at], (begin * inner, end * inner), *bounds[at + 2 :]]


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same values, compared by pieces."""
    dtype = DTYPES[a.dtype]
    rows = max(1, _PIECE // max(1, math.prod(a.shape[1:]) * dtype.itemsize))
    at = (slice(*piece) for piece in pieces(0, a.shape[0], rows))
    return all(np.array_equal(read(a, (i,), dtype), read(b, (i,), dtype)) for i in at)


def bounds_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Where a slice begins and ends on each axis; axes that it leaves out are whole."""
    index += (slice(None),) * (len(shape) - len(index))
    return [s.indices(size)[:2] for s, size in zip(index, shape, strict=True)]


def pieces(first: int, end: int, rows: int) -> Iterator[tuple[int, int]]:
    """Rows from first to end, in pieces that end at multiples of `rows`."""
    while first < end:
        stop = min((first // rows + 1) * rows, end)
        yield first, stop
        first = stop


def files(directory: str) -> list[str]:
    """The paths that `scan` and `read` read of a checkpoint, as far as they are there."""
    names = [name for name in NAMES if os.path.isfile(os.path.join(directory, name))]
    if INDEX in names:
        names = [INDEX, *(_placed(directory, []) or {}).values()]
    found = [os.path.join(directory, name) for name in dict.fromkeys(names)]
    return [path for path in found if os.path.isfile(path)]


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
        if name in found.unread:
            continue
        if name not in found.tensors:
            found.problems.append(f"{name}: not in {file}, where {INDEX} puts it")
            found.unread.add(name)
        elif (other := os.path.basename(found.tensors[name].path)) != file:
            found.problems.append(f"{name}: in {other}, and {INDEX} puts it in {file}")
    return found


def _placed(directory: str, problems: list[str]) -> dict[str, str] | None:
    """Tensor -> file by the index; None without one, for a single file."""
    single, path = (os.path.join(directory, name) for name in NAMES)
    if not os.path.lexists(path):
        if os.path.lexists(single):
            shards = glob.glob(_SHARDS, root_dir=directory)
            if shards:
                problems.append(
                    f"{SINGLE} beside {shown(sorted(shards))}, and no {INDEX}: keep one of them"
                )
            return None
        raise FileNotFoundError(
            f"no {SINGLE} and no {INDEX} in {directory}: only safetensors are read"
            f"{only_gguf(directory)}"
        )
    try:
        json_files.is_there(path)  # or else it is no file
        placed = json_files.read(path).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise ValueError("no 'weight_map' of names to files, or an empty one")
        for file in placed.values():
            _check_plain(file)
    except (OSError, ValueError) as e:
        problems.append(f"{INDEX}: {_reason(e).removeprefix(f'{path}: ')}")
        return {}
    named = set(placed.values())
    if SINGLE not in named and os.path.lexists(single):
        problems.append(
            f"{SINGLE} beside {INDEX}, which names other files, {shown(sorted(named))}: "
            "keep one of them"
        )
    return placed


def _check_plain(file: Any) -> None:
    """A file of the directory itself; that may be a link, as it is in the hub's cache."""
    if not isinstance(file, str):
        raise ValueError(f"weight_map must map names to files, not to {shown(file)}")
    if file in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(file):
        raise ValueError(f"weight_map leads out of the directory, to {shown(file)}")


def _read_header(path: str) -> dict[str, Tensor]:
    """Raises ValueError when the header cannot be read, or does not account for each byte."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("not a regular file")
    try:
        with safetensors.safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: Tensor(path, name, source.get_dtype(), tuple(source.get_shape()))
                for name, source in slices.items()
            }
    except safetensors.SafetensorError as e:
        raise ValueError(f"torn: {_reason(e)}") from e
    with open(path, "rb") as raw:  # of a name that comes twice, the library takes one
        json_files.parse(raw.read(int.from_bytes(raw.read(8), "little")))
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file, though the index names it"
    text = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
    return text if len(text) <= _REASON else f"{text[:_REASON]}..."
