"""Arrays as an Orbax checkpoint, in a folder of a directory: weights, or the keys of a context.

Weights are one array per tensor, under its Hugging Face name. They have the model's shapes, with
heads on an axis of their own, and are cut into chunks, so that a device's slice is read without
its neighbours'. Orbax is slow to import: on first use.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from star_jax import json_files
from star_jax.checkpoint import tensor_files

WEIGHTS = "weights"  # the Orbax checkpoint, in the directory of the configuration
LIST = "{}_files.json"  # of a folder: its files and their sizes, by which a torn one is known

_CHUNK = 2**20  # bytes; slices of large models are tens of them, and Orbax warns of smaller ones
_PIECE = 64 * 2**20  # bytes that are read or written at a time
_NODES = "cache_pool#ocdbt"  # of the index of chunks; without it, it is read again each time
DTYPES = {dtype.name: dtype for dtype in tensor_files.DTYPES.values()}
_WORDS = {dtype: word for word, dtype in tensor_files.DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in an Orbax checkpoint. `dtype` is safetensors' word for it, if it has one."""

    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    stored: np.dtype
    context: Any = dataclasses.field(compare=False)  # tensorstore's, shared by all tensors


class Torn(ValueError):
    """What the metadata speaks of cannot be read."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A tensor to be written: where its values are, and what it becomes."""

    tensor: tensor_files.Tensor | tensor_files.Rows
    shape: tuple[int, ...]
    dtype: np.dtype
    head_axis: int | None


def is_here(directory: str) -> bool:
    """Whether a checkpoint has its weights in Orbax's format, whole or not."""
    path = os.path.join(directory, WEIGHTS)
    signs = [os.path.join(path, name) for name in ("_METADATA", "manifest.ocdbt")]
    others = [os.path.join(directory, name) for name in tensor_files.NAMES]
    return os.path.isdir(path) and (
        any(map(os.path.exists, signs)) or not any(map(os.path.exists, others))
    )


def files(directory: str) -> list[str]:
    """The files of the weights, and the list of them, as far as they are there."""
    path = os.path.join(directory, LIST.format(WEIGHTS))
    return [*([path] if os.path.isfile(path) else []), *_walk(os.path.join(directory, WEIGHTS))]


def _walk(path: str) -> list[str]:
    """All files of a folder, those behind links to folders too."""
    found, seen = [], set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        found += [os.path.join(folder, name) for name in names]
    return sorted(filter(os.path.isfile, found))


def scan(directory: str, folder: str = WEIGHTS) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """The arrays by Orbax's metadata, and all that is wrong with that; see `tensor_files.scan`."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]
    import tensorstore
    from etils import epath  # type: ignore[import-untyped]

    path = os.path.abspath(os.path.join(directory, folder))
    if torn := _torn(directory, folder):
        return {}, [torn], set()
    context = tensorstore.Context({_NODES: {"total_bytes_limit": 10**8}})
    try:
        _open_all(path, context)
        with _quiet():
            tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path))
    except Exception as e:  # of many kinds, by what is torn
        return {}, [f"{folder}: torn: {_reason(e)}"], set()
    found, problems = {}, []
    for name, array in dict(tree).items():
        if not isinstance(array, ocp.metadata.ArrayMetadata):
            problems.append(f"{folder}: {name} is not an array")
            continue
        dtype = np.dtype(array.dtype)
        shape, storage = tuple(array.shape), array.storage
        chunk = shape if storage is None or not storage.chunk_shape else storage.chunk_shape
        word = _WORDS.get(dtype, dtype.name)
        found[name] = Tensor(path, name, word, shape, tuple(chunk), dtype, context)
    return found, problems, set()


def _open_all(path: str, context: Any) -> None:
    """Opens each array alone, ahead of Orbax: of many that fail at once, it prints tracebacks."""
    for name in ("_METADATA", "manifest.ocdbt"):
        if not os.path.isfile(os.path.join(path, name)):  # of a device it would read without end
            raise ValueError(f"the file (named {name}) does not exist, or is none")
    tree = json_files.read(os.path.join(path, "_METADATA"))["tree_metadata"]
    for entry in tree.values():
        if entry["value_metadata"]["value_type"] in ("np.ndarray", "jax.Array"):
            _open(path, ".".join(str(key["key"]) for key in entry["key_metadata"]), context)


def _open(path: str, name: str, context: Any) -> Any:
    """An array of the checkpoint, by tensorstore."""
    import tensorstore

    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{path}/"},
            "path": f"{name}/",
            "cache_pool": _NODES,
        },
        "fill_missing_data_reads": False,
    }
    return tensorstore.open(spec, open=True, context=context).result()


def _torn(directory: str, folder: str) -> str | None:
    """What is wrong with the files, ahead of Orbax, whose errors are hard to read.

    A checkpoint that Orbax alone has written has no list of them.
    """
    listed = LIST.format(folder)
    path = os.path.join(directory, listed)
    try:
        if not json_files.is_there(path):
            return None
        expected = json_files.read(path)
    except ValueError as e:
        return f"{listed}: torn: {str(e).removeprefix(f'{path}: ')}"
    bad = [name for name, size in expected.items() if _size(directory, name) != size]
    if not bad:
        return None
    names = ", ".join(name[:200] for name in bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"{folder}: torn: {len(bad)} of {len(expected)} files are cut or not there: {names}"


def _size(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    return os.path.getsize(path) if os.path.isfile(path) else None


def read(tensor: Tensor, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
    """A slice of a tensor, cast to `dtype`. Beside it, memory is needed for a piece of it.

    By tensorstore, on Orbax's files: Orbax itself reads whole slices, and holds them twice.

    Raises:
      Torn: it cannot be read.
    """
    bounds = tensor_files.bounds_of(index, tensor.shape)
    found = np.empty([end - begin for begin, end in bounds], dtype)
    try:
        store = _open(tensor.path, tensor.name, tensor.context)
        if (store.shape, store.dtype.name) != (tensor.shape, tensor.stored.name):
            raise ValueError(f"it is {store.dtype.name}{list(store.shape)}")
        (first, end), others = bounds[0], tuple(slice(*bound) for bound in bounds[1:])
        row = math.prod(found.shape[1:]) * tensor.stored.itemsize
        for begin, stop in _pieces(first, end, row, tensor.chunk[0]):
            piece = store[(slice(begin, stop), *others)].read().result()
            found[begin - first : stop - first] = piece
    except MemoryError:
        raise
    except Exception as e:  # of many kinds, by what is torn
        raise Torn(f"{os.path.basename(tensor.path)}: torn: {tensor.name}: {_reason(e)}") from e
    return found


def _pieces(first: int, end: int, row: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Rows from first to end in pieces that end where chunks do; `row` is in bytes."""
    return tensor_files.pieces(first, end, max(1, _PIECE // (row * chunk)) * chunk)


def _one_by_one(writing: threading.Lock, stopped: threading.Event) -> Any:
    """What writes tensors for Orbax, until it is stopped; it holds the lock while it writes."""
    import orbax.checkpoint as ocp
    import tensorstore

    class OneByOne(ocp.type_handlers.NumpyHandler):
        """Orbax's own would have all tensors in memory at once, and each of them twice."""

        async def serialize(
            self, values: Sequence[Source], infos: Sequence[Any], args: Any = None
        ) -> list[Any]:
            for source, info, arg in zip(values, infos, args, strict=True):
                if stopped.is_set():
                    raise InterruptedError("stopped")
                self._source = source
                stored = tensor_files.DTYPES[source.tensor.dtype]
                stand_in = np.broadcast_to(np.zeros((), stored), source.shape)  # of no memory
                for written in await super().serialize([stand_in], [info], [arg]):
                    await asyncio.to_thread(written.result)
            return []

        async def _open_and_write(self, value: np.ndarray, spec: Any, context: Any) -> None:
            """A piece at a time. This hook is private: hence the bound on Orbax's version."""
            store: Any = await tensorstore.open(
                tensorstore.Spec(spec), create=True, open=True, context=context
            )
            tensor, shape = self._source.tensor, self._source.shape
            chunk, row = store.chunk_layout.write_chunk.shape[0], value.nbytes // len(value)
            for begin, end in _pieces(0, len(value), row, chunk):
                piece = tensor_files.read(tensor, (slice(begin, end),), value.dtype, shape=shape)
                with writing:  # nothing else runs in this thread
                    if stopped.is_set():
                        return
                    await store[begin:end].write(piece)

    return OneByOne(deepcopy_host_arrays=False)


def write(directory: str, sources: Mapping[str, Source]) -> None:
    """Writes the weights of a checkpoint, a tensor at a time.

    Raises:
      OSError: they cannot be written.
    """
    import orbax.checkpoint as ocp

    writing, stopped = threading.Lock(), threading.Event()
    registry = ocp.type_handlers.create_type_handler_registry(
        (Source, _one_by_one(writing, stopped)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # or Orbax warns that there is none
    )
    options = {
        name: ocp.SaveArgs(
            dtype=source.dtype,
            chunk_byte_size=_CHUNK,
            shard_axes=() if source.head_axis is None else (source.head_axis,),
        )
        for name, source in sources.items()
    }
    path = os.path.abspath(os.path.join(directory, WEIGHTS))
    try:
        with _quiet():
            handler = ocp.PyTreeCheckpointHandler(
                type_handler_registry=registry,
                use_compression=False,  # weights hardly compress
            )
            with ocp.Checkpointer(handler) as checkpointer:
                arguments = ocp.args.PyTreeSave(dict(sources), save_args=options)
                checkpointer.save(path, args=arguments)
    except Exception as e:  # tensorstore raises ValueErrors, of a full disk too
        raise OSError(f"{WEIGHTS} could not be written: {_reason(e)}") from e
    finally:
        stopped.set()
        with writing:  # when this returns or raises, no thread of Orbax's writes on
            pass
    write_list(directory, WEIGHTS)


def write_arrays(
    directory: str,
    folder: str,
    arrays: Mapping[str, jax.Array | np.ndarray],
    *,
    axes: Mapping[str, int],
) -> None:
    """Writes arrays as they lie on the devices; each process its part. All must call it.

    Beside them the host needs memory for a GB, or for the largest array.

    axes: of some arrays an axis whose places are read one by one.

    Raises:
      OSError: they cannot be written.
    """
    import orbax.checkpoint as ocp

    options = {
        name: ocp.SaveArgs(chunk_byte_size=_CHUNK, shard_axes=(axes[name],) if name in axes else ())
        for name in arrays
    }
    try:
        with _quiet():
            handler = ocp.PyTreeCheckpointHandler(
                use_compression=False,  # keys and values hardly compress
                save_concurrent_gb=1,
                save_device_host_concurrent_gb=1,
            )
            with ocp.Checkpointer(handler) as checkpointer:
                arguments = ocp.args.PyTreeSave(dict(arrays), save_args=options)
                checkpointer.save(os.path.abspath(os.path.join(directory, folder)), args=arguments)
    except Exception as e:  # tensorstore raises ValueErrors, of a full disk too
        raise OSError(f"{folder} could not be written: {_reason(e)}") from e


def size(directory: str, folder: str) -> int:
    """The bytes of a folder's files."""
    return sum(map(os.path.getsize, _walk(os.path.join(directory, folder))))


def write_list(directory: str, folder: str) -> None:
    """Notes the files of a folder and their sizes; the last that is written."""
    found = _walk(os.path.join(directory, folder))
    sizes = {os.path.relpath(file, directory): os.path.getsize(file) for file in found}
    with open(os.path.join(directory, LIST.format(folder)), "w", encoding="utf-8") as file:
        json.dump(sizes, file, indent=0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells absl's log of every step, which commands show; errors we raise ourselves."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.FATAL))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _reason(error: BaseException) -> str:
    """The first words of the error that began it; tensorstore goes on for pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AttributeError | KeyError | TypeError):  # it says something of our code
        text = f"not what Orbax writes ({text})"
    return text if len(text) <= 200 else f"{text[:200]}..."
