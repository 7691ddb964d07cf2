"""Weights as an Orbax checkpoint: one array per tensor, under its Hugging Face name.

Arrays have the model's shapes, with heads on an axis of their own, and are cut into chunks, so
that a device's slice is read without its neighbours'. Orbax is slow to import: on first use.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding

from star_jax import tensor_files

WEIGHTS = "weights"  # the Orbax checkpoint, in the directory of the configuration
LIST = "weights_files.json"  # its files and their sizes, by which a torn one is known

_CHUNK = 2**20  # bytes; slices of large models are tens of them, and Orbax warns of smaller ones
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


@dataclasses.dataclass(frozen=True)
class Source:
    """A tensor to be written: where its values are, and what it becomes."""

    tensor: tensor_files.Tensor
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


def scan(directory: str) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """The tensors by Orbax's metadata, and all that is wrong with that; see `tensor_files.scan`."""
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]
    from etils import epath  # type: ignore[import-untyped]

    path = os.path.abspath(os.path.join(directory, WEIGHTS))
    if torn := _torn(directory):
        return {}, [torn], set()
    try:
        with _quiet():
            tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path))
    except Exception as e:  # of many kinds, by what is torn
        return {}, [f"{WEIGHTS}: torn: {_reason(e)}"], set()
    found, problems = {}, []
    for name, array in dict(tree).items():
        if not isinstance(array, ocp.metadata.ArrayMetadata):
            problems.append(f"{WEIGHTS}: {name} is not an array")
            continue
        dtype = np.dtype(array.dtype)
        shape, storage = tuple(array.shape), array.storage
        chunk = shape if storage is None or not storage.chunk_shape else storage.chunk_shape
        found[name] = Tensor(path, name, _WORDS.get(dtype, dtype.name), shape, tuple(chunk))
    return found, problems, set()


def _torn(directory: str) -> str | None:
    """What is wrong with the files, ahead of Orbax, whose errors are hard to read.

    A checkpoint that Orbax alone has written has no list of them.
    """
    path = os.path.join(directory, LIST)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            expected = json.load(file)
        bad = [name for name, size in expected.items() if _size(directory, name) != size]
    except (ValueError, AttributeError) as e:
        return f"{LIST}: torn: not a JSON object ({e})"
    if not bad:
        return None
    names = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"{WEIGHTS}: torn: {len(bad)} of {len(expected)} files are cut or not there: {names}"


def _size(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    return os.path.getsize(path) if os.path.isfile(path) else None


def place(tensor: Tensor, sharding: NamedSharding, dtype: np.dtype, *, repeat: int) -> jax.Array:
    """Puts a tensor on the devices; of key/value heads, its first axis, each `repeat` times.

    Each device's slice is read alone, one after another.

    Raises:
      ValueError: it cannot be read.
    """
    if repeat == 1:
        return _restore(tensor, sharding, dtype)
    # Every device has one head: as if the tensor axis were two, of the heads and of the repeats.
    mesh = sharding.mesh
    grid = mesh.devices.reshape(*mesh.devices.shape[:-1], -1, repeat)
    split = Mesh(grid, (*mesh.axis_names, "repeat"))
    heads = _restore(tensor, NamedSharding(split, sharding.spec), dtype)
    shape = (tensor.shape[0] * repeat, *tensor.shape[1:])
    parts = [shard.data for shard in heads.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _restore(tensor: Tensor, sharding: NamedSharding, dtype: np.dtype) -> jax.Array:
    import orbax.checkpoint as ocp
    from etils import epath

    # Else all slices are read at once, and what the C library keeps between them, for good on
    # CPU devices, is much more.
    item = max(tensor_files.DTYPES[tensor.dtype].itemsize, dtype.itemsize)  # cast as it is read
    limit = _elements_read(tensor, sharding.shard_shape(tensor.shape)) * item + 1
    with _quiet():
        base = ocp.BasePyTreeCheckpointHandler(restore_concurrent_bytes=limit)
        handler = ocp.PyTreeCheckpointHandler(handler_impl=base)
    arguments = ocp.args.PyTreeRestore(
        item={tensor.name: 0},
        restore_args={
            tensor.name: ocp.ArrayRestoreArgs(
                restore_type=jax.Array, sharding=sharding, global_shape=tensor.shape, dtype=dtype
            )
        },
        partial_restore=True,
    )
    try:
        with _quiet():
            return handler.restore(epath.Path(tensor.path), args=arguments)[tensor.name]
    except jax.errors.JaxRuntimeError:  # of the devices: out of memory, most likely
        raise
    except Exception as e:  # Orbax raises bare ones
        raise ValueError(f"{WEIGHTS}: torn: {tensor.name}: {_reason(e)}") from e


def _elements_read(tensor: Tensor, shard: tuple[int, ...]) -> int:
    """At most, for a slice of this shape: whole chunks, wherever it begins."""
    sizes = [
        min((size - 2) // chunk + 2, -(-whole // chunk)) * chunk
        for size, chunk, whole in zip(shard, tensor.chunk, tensor.shape, strict=True)
    ]
    return math.prod(sizes)


def write(directory: str, sources: Mapping[str, Source]) -> None:
    """Writes the weights of a checkpoint, a tensor at a time.

    Raises:
      OSError: they cannot be written.
    """
    import orbax.checkpoint as ocp

    class OneByOne(ocp.type_handlers.NumpyHandler):
        """Orbax's own would have all tensors in memory at once."""

        async def serialize(
            self, values: Sequence[Source], infos: Sequence[Any], args: Any = None
        ) -> list[Any]:
            for source, info, arg in zip(values, infos, args, strict=True):
                array = source.tensor.map().reshape(source.shape)
                for written in await super().serialize([array], [info], [arg]):
                    await asyncio.to_thread(written.result)
            return []

    registry = ocp.type_handlers.create_type_handler_registry(
        (Source, OneByOne(deepcopy_host_arrays=False)),
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
    except OSError:
        raise
    except Exception as e:  # tensorstore raises ValueErrors, of a full disk too
        raise OSError(f"{path} could not be written: {_reason(e)}") from e
    written = [
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(path)
        for name in names
    ]
    sizes = {name: os.path.getsize(os.path.join(directory, name)) for name in sorted(written)}
    with open(os.path.join(directory, LIST), "w", encoding="utf-8") as file:
        json.dump(sizes, file, indent=0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells absl's log of every step, which commands show."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _reason(error: BaseException) -> str:
    """The first words of the error that began it; tensorstore goes on for pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
