"""Checkpoints: found, checked as a whole, and put on the devices.

Weights are safetensors, or an Orbax checkpoint that `star_jax.convert` made of them. They are
read lazily: each device receives only its slice of each tensor, and no host holds more than one
tensor's slices at a time. Matrices in 8 bits are dequantised on the way, piece by piece.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from star_jax import models
from star_jax.checkpoint import orbax_files, scales, tensor_files
from star_jax.models import Decoder, DecoderConfig
from star_jax.models.family import as_it_is
from star_jax.printable import printable
from star_jax.runtime.placement import Placement, placement_of
from star_jax.sizes import shown

SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
]
_HUB_FILES = [*SMALL_FILES, "model*.safetensors*"]
_CONFIG_FILES = ["config.json", "generation_config.json"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

# Buffers that old files carry; they follow from the configuration.
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_LAYER = re.compile(r"((?:language_model\.)?model\.layers\.)(\d{1,9})(\..*)")
_SAID = 50  # problems
_LONG = 400  # characters of one
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"

_Stored = tensor_files.Tensor | orbax_files.Tensor
Tensor = tensor_files.Tensor | tensor_files.Rows | orbax_files.Tensor


def resolve(
    path: str | os.PathLike[str], *, config_only: bool = False, without_weights: bool = False
) -> str:
    """The local directory of a checkpoint: `path` itself, or a hub id's snapshot, fetched.

    config_only: fetches neither weights nor tokenizer. without_weights: fetches the tokenizer too.

    Raises:
      FileNotFoundError: it is neither.
      ValueError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path={shown(path)} must be a directory, or an id on the hub")
    path = os.fspath(path)
    directory = os.path.expanduser(path)
    if os.path.isdir(directory):
        return directory
    if os.path.exists(directory) or not _HUB_ID.fullmatch(path):
        raise FileNotFoundError(f"{path!r} is not a directory, nor an id on the hub")
    import huggingface_hub  # slow to import

    patterns = SMALL_FILES if without_weights else _HUB_FILES
    try:
        return huggingface_hub.snapshot_download(
            path, allow_patterns=_CONFIG_FILES if config_only else patterns
        )
    except Exception as e:  # of many kinds: no network, no such repository, no permission
        reason = printable(next(iter(str(e).splitlines()), type(e).__name__))
        raise FileNotFoundError(
            f"{path!r} is not a directory, and could not be fetched from the hub: {reason}"
        ) from e


def load(
    directory: str | os.PathLike[str], config: DecoderConfig, *, mesh: Mesh, dtype: str
) -> Decoder:
    """Loads the weights of a checkpoint onto a mesh, cast to `dtype`.

    Those in 8 bits are multiplied by their scales in float32 first.

    Raises:
      FileNotFoundError: the directory holds no weights.
      ValueError: files are torn, or tensors are missing, unknown, misshapen, of a dtype that
        is not floating point, without the scales that they need, or cannot be divided over the
        mesh; it lists all of these.
      NotImplementedError: weights are stored in a way that is not supported.
    """
    weights = find(directory, config, mesh=mesh)

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        placement = placement_of(shape, axes, mesh)
        try:
            array = _place(weights[name], shape, placement, jnp.dtype(dtype))
        except ValueError as e:  # it was whole when it was looked at
            raise ValueError(printable(f"checkpoint {os.fspath(directory)}: {e}")) from e
        # Or the host would hold what waits to be sent, in the end the whole checkpoint.
        return jax.block_until_ready(array)

    return models.build(config, make)


def find(
    directory: str | os.PathLike[str], config: DecoderConfig, *, mesh: Mesh
) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, none of them read, if they fit model and mesh.

    Raises:
      FileNotFoundError, ValueError: as `load`.
    """
    path = os.fspath(directory)
    tensors: dict[str, _Stored] = {}
    weights: dict[str, Tensor] = {}
    if converted := orbax_files.is_here(path):
        arrays, problems, unread = orbax_files.scan(path)
        tensors.update(arrays)
        if any(os.path.lexists(os.path.join(path, f)) for f in tensor_files.NAMES):
            problems.append(f"safetensors beside {orbax_files.WEIGHTS}: keep one of them")
    else:
        # Stored as they are or in 8 bits: that is a matter of safetensors alone.
        found = scales.join(tensor_files.scan(path), models.read_quantization(path))
        files, problems, unread = found
        tensors.update(files)
    if tensors or not problems:  # or else nothing could be read, and all would be missing
        weights, misfits = _fit(tensors, unread, config, mesh, flat=not converted)
        problems += misfits
    if problems:
        said = [f"{one[:_LONG]}..." if len(one) > _LONG else one for one in _grouped(problems)]
        if len(said) > _SAID:
            said[_SAID:] = [f"and {len(said) - _SAID} more"]
        raise ValueError(printable(f"checkpoint {path}: {'; '.join(said)}"))
    return weights


def weight_files(directory: str | os.PathLike[str]) -> list[str]:
    """The paths of all files that `load` reads weights from, as far as they are there."""
    path = os.fspath(directory)
    return (orbax_files if orbax_files.is_here(path) else tensor_files).files(path)


Index = tuple[slice, ...]


def _place(
    tensor: Tensor, shape: tuple[int, ...], placement: Placement, dtype: np.dtype
) -> jax.Array:
    """Puts a weight on the devices; of key/value heads, its first axis, some repeatedly."""
    sharding, repeat = placement
    slices: dict[tuple[tuple[int | None, int | None], ...], np.ndarray] = {}
    cut = _slicer(tensor, shape, dtype)

    def read(index: Index | None) -> np.ndarray:
        index = () if index is None else index
        if repeat > 1:  # then every device has one head
            index = (slice(index[0].start // repeat, index[0].start // repeat + 1), *index[1:])
        key = tuple((s.start, s.stop) for s in index)
        if key not in slices:  # devices that hold the same slice share one reading of it
            slices[key] = cut(index)
        return slices[key]

    return jax.make_array_from_callback((shape[0] * repeat, *shape[1:]), sharding, read)


def _slicer(
    tensor: Tensor, shape: tuple[int, ...], dtype: np.dtype
) -> Callable[[Index], np.ndarray]:
    if isinstance(tensor, orbax_files.Tensor):
        return lambda index: orbax_files.read(tensor, index, dtype)
    return lambda index: tensor_files.read(tensor, index, dtype, shape=shape)


def _fit(
    tensors: dict[str, _Stored], unread: set[str], config: DecoderConfig, mesh: Mesh, *, flat: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The model's weights, made from these tensors; and what keeps them from being these.

    `flat`: the tensors are as the family stores them, heads and head dimension on one axis.
    """
    problems: list[str] = []
    weights: dict[str, Tensor] = {}
    known: set[str] = set()
    held = {int(m[2]) for m in map(_LAYER.fullmatch, (*tensors, *unread)) if m}
    if config.num_layers > len(held):  # said once: there may be a thousand million
        problems.append(f"num_hidden_layers={config.num_layers}, and there are {len(held)} layers")
        config = dataclasses.replace(config, num_layers=len(held))
    parts_of = models.family_of(config.family).parts if flat else as_it_is

    def check(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
        expected = _flat(shape, axes) if flat else shape
        try:
            placement_of(shape, axes, mesh)
        except ValueError as e:
            problems.append(f"{name}: {e}")
        parts = parts_of(config, name, expected[0])
        found = [tensors[part.tensor] for part in parts if part.tensor in tensors]
        for part in parts:
            if part.tensor not in known | unread:
                problems.extend(_misfit(tensors, part, (part.rows, *expected[1:])))
            known.add(part.tensor)
        if len(dtypes := {tensor.dtype for tensor in found}) > 1:
            problems.append(f"{name}: parts of {' and '.join(sorted(dtypes))}")
        if len(found) == len(parts):
            weights[name] = _weight(found, parts)

    models.build(config, check)
    head, embedding = (
        parts_of(config, w, config.vocab_size)[0].tensor for w in (_HEAD, _EMBEDDING)
    )
    if config.tie_word_embeddings and head in tensors:
        known.add(head)
        shape = (config.vocab_size, config.hidden_size)
        if not _same(tensors.get(embedding), tensors[head], shape, mesh):
            problems.append(f"{head}: differs from {embedding}, though tie_word_embeddings is true")
    unused = models.family_of(config.family).unused
    extra = [
        name
        for name in tensors
        if name not in known and not _IGNORED.fullmatch(name) and not name.startswith(unused)
    ]
    return weights, problems + [f"{name}: unknown" for name in extra]


def _misfit(
    tensors: dict[str, _Stored], part: models.Part, expected: tuple[int, ...]
) -> Iterator[str]:
    """What keeps a stored tensor from being the one of which a weight is a part."""
    if (tensor := tensors.get(part.tensor)) is None:
        yield f"{part.tensor}: missing"
    elif tensor.shape != expected:
        yield f"{part.tensor}: shape {tensor.shape}, not {expected}"
    elif tensor.dtype not in tensor_files.DTYPES:
        yield f"{part.tensor}: {tensor.dtype} is not one of {', '.join(tensor_files.DTYPES)}"


def _weight(tensors: list[_Stored], parts: tuple[models.Part, ...]) -> Tensor:
    """A weight made of these parts of these tensors."""
    if len(parts) == 1 and parts[0].stop - parts[0].start == parts[0].rows:
        return tensors[0]
    return tensor_files.Rows(
        tuple(
            (tensor, part.start, part.stop)
            for tensor, part in zip(tensors, parts, strict=True)
            if isinstance(tensor, tensor_files.Tensor)
        )
    )


def _same(a: _Stored | None, b: _Stored, shape: tuple[int, ...], mesh: Mesh) -> bool:
    if a is None or not a.shape == b.shape == shape:
        return False
    if a.dtype != b.dtype or a.dtype not in tensor_files.DTYPES:
        return False
    if isinstance(a, tensor_files.Tensor) and isinstance(b, tensor_files.Tensor):
        return tensor_files.equal(a, b)
    placement = placement_of(a.shape, ("vocab", "embed"), mesh)
    x, y = (_place(t, t.shape, placement, tensor_files.DTYPES[t.dtype]) for t in (a, b))
    return bool(jnp.array_equal(x, y))


def _flat(shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    """The shape in safetensors: heads are one axis with what follows them, and so are experts."""
    sizes = list(shape)
    for at in (axes.index(axis) for axis in ("heads", "kv_heads", "experts") if axis in axes):
        sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    return tuple(sizes)


def _grouped(problems: list[str]) -> list[str]:
    """Says once what is wrong in many layers: `model.layers.0-31.mlp...: missing`."""
    layers: dict[tuple[str, str], list[int]] = {}
    for problem in problems:
        if match := _LAYER.fullmatch(problem):
            layers.setdefault((match[1], match[3]), []).append(int(match[2]))
        else:
            layers[problem, ""] = []
    return [f"{head}{_ranges(numbers)}{tail}" for (head, tail), numbers in layers.items()]


def _ranges(numbers: list[int]) -> str:
    """`0-3,5` for [0, 1, 2, 3, 5]."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
