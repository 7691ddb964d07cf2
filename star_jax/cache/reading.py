"""Saved contexts, dealt out anew where they are loaded; see `writing`.

Nothing on disk depends on the mesh that reads it: a device reads its tokens from wherever they lie.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax import json_files
from star_jax.cache import digest
from star_jax.cache.about import ABOUT, KEYS, About, GroupAbout, Torn
from star_jax.cache.context import Context, ContextBatch
from star_jax.cache.group import Group
from star_jax.cache.layer import Plain
from star_jax.cache.sharded import KV, Shards, Turns, dealt
from star_jax.checkpoint import orbax_files
from star_jax.checkpoint.fingerprint import Fingerprint
from star_jax.models import DecoderConfig
from star_jax.printable import printable
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import placement_of
from star_jax.runtime.runtime import Runtime

KindOf = Callable[[dict[str, Any]], Any]  # a `Kind` of its fields


def load(
    path: str | os.PathLike[str], *, runtime: Runtime, fingerprint: Fingerprint, kind_of: KindOf
) -> Context | ContextBatch:
    """See `Engine.load_context`. fingerprint: of the engine that loads it."""
    if not os.fspath(path):
        raise ValueError("path is empty: name the directory of a saved context")
    directory = os.path.abspath(os.path.expanduser(path))
    shown = printable(directory)
    if not os.path.isfile(os.path.join(directory, ABOUT)):
        what = "holds no saved context" if os.path.isdir(directory) else "is not a directory"
        raise FileNotFoundError(f"path={shown} {what}: {ABOUT} is not there")
    try:
        return _load(directory, runtime, fingerprint, kind_of)
    except (Torn, orbax_files.Torn) as e:
        raise ValueError(f"path={shown}: {e}") from e


def tokens(
    path: str | os.PathLike[str], *, config: DecoderConfig, fingerprint: Fingerprint
) -> tuple[About, list[list[int]]]:
    """What context.json says of a saved context, and the tokens of each row.

    Keys and values are not read.

    Raises:
      ValueError: it is torn, or another model's.
      OSError: it cannot be read.
    """
    about, _, rows = _opened(os.fspath(path), config, fingerprint)
    return about, rows


def _opened(
    directory: str, config: DecoderConfig, fingerprint: Fingerprint
) -> tuple[About, "_Files", list[list[int]]]:
    about = About.of(json_files.read(os.path.join(directory, ABOUT)))
    if differences := fingerprint.differences_from_fields(about.fingerprint):
        raise Torn(
            f"the context was encoded by another model than this engine's: {'; '.join(differences)}"
        )
    listed = orbax_files.LIST.format(KEYS)
    if not os.path.isfile(os.path.join(directory, listed)):
        raise Torn(f"{listed} is not there")
    tensors, problems, _ = orbax_files.scan(directory, KEYS)
    if problems:
        raise Torn("; ".join(problems[:3]))
    _check_size(directory, tensors)
    files = _Files(tensors, config, fingerprint.dtype)
    files.check_names(about)
    return about, files, [files.tokens(i, length) for i, length in enumerate(about.lengths)]


def _load(
    directory: str, runtime: Runtime, fingerprint: Fingerprint, kind_of: KindOf
) -> Context | ContextBatch:
    about, files, rows = _opened(directory, runtime.config, fingerprint)
    try:
        kind = kind_of(about.attention)
    except ValueError as e:
        raise Torn(f"{ABOUT}: {e}") from e
    made = dataclasses.replace(
        fingerprint, attention=repr(kind), tokenizer=about.fingerprint["tokenizer"], cache=None
    )
    groups = tuple(
        _group(files, g, group, rows, kind, runtime) for g, group in enumerate(about.groups)
    )
    for group, expected in zip(groups, about.digests, strict=True):
        if digest.of_group(group, num_kv_heads=runtime.config.num_kv_heads) != expected:
            raise Torn(f"{KEYS}: torn: these are not the tokens, keys and values that were saved")
    cls = ContextBatch if about.is_batch else Context
    return cls(rows, groups, runtime.mesh, made, about.attention)


def _check_size(directory: str, tensors: dict[str, orbax_files.Tensor]) -> None:
    """Nothing is compressed: arrays of more bytes than the files have are not there."""
    claimed = sum(math.prod(t.shape) * t.stored.itemsize for t in tensors.values())
    there = orbax_files.size(directory, KEYS)
    if claimed > there:
        raise Torn(f"{KEYS}: torn: arrays of {claimed} bytes in files of {there}")


@dataclasses.dataclass(frozen=True)
class _Files:
    """The arrays of a saved context, with the shapes that the model gives them."""

    tensors: dict[str, orbax_files.Tensor]
    config: DecoderConfig
    dtype: str

    def check_names(self, about: About) -> None:
        layers, kinds = range(self.config.num_layers), ("k", "v")
        names = {f"tokens.{i}" for i, length in enumerate(about.lengths) if length}
        for g, group in enumerate(about.groups):
            for part in ("", "turns.") if group.turns else ("",):
                names |= {f"{g}.{i}.{part}{kind}" for i in layers for kind in kinds}
        if names != self.tensors.keys():
            missing, more = names - self.tensors.keys(), self.tensors.keys() - names
            which = f"{json_files.shown(sorted(missing)[:3])} not there" if missing else ""
            which = which or f"{json_files.shown(sorted(more)[:3])} too many"
            raise Torn(f"{KEYS}: arrays do not fit {ABOUT}: {which}")

    def tokens(self, row: int, length: int) -> list[int]:
        if not length:
            return []
        tensor = self.tensors[f"tokens.{row}"]
        if tensor.shape != (length,) or tensor.stored != np.int32:
            raise Torn(f"{KEYS}: {tensor.name} is {tensor.stored}{list(tensor.shape)}")
        ids = orbax_files.read(tensor, (slice(None),), np.dtype(np.int32))
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise Torn(f"{KEYS}: {tensor.name} has ids that are not in the vocabulary")
        return ids.tolist()

    def array(self, name: str, rows: int) -> orbax_files.Tensor:
        """An array of keys or values; its rows, keys and copies of heads are its own."""
        tensor, config = self.tensors[name], self.config
        fits = (
            len(tensor.shape) == 4
            and tensor.shape[0] >= rows
            and tensor.shape[2] > 0
            and tensor.shape[2] % config.num_kv_heads == 0
            and tensor.shape[3] == config.head_dim
            and tensor.stored.name == self.dtype
        )
        if not fits:
            raise Torn(
                f"{KEYS}: {name} is {tensor.stored}{list(tensor.shape)}, which the model's keys "
                "are not"
            )
        return tensor


def _group(
    files: _Files, g: int, about: GroupAbout, rows: list[list[int]], kind: Any, runtime: Runtime
) -> Group:
    """Deals out the keys of some rows as `kind` deals them on this mesh."""
    mesh, config = runtime.mesh, runtime.config
    shards, room = kind.deal(max(1, *about.encoded), mesh.shape[mesh_lib.CONTEXT])
    tokens = [rows[i] for i in about.rows]
    padding = -len(tokens) % mesh.shape[mesh_lib.DATA]
    batch = len(tokens) + padding
    repeat = placement_of((config.num_kv_heads,), ("kv_heads",), mesh).repeat
    shape = (batch, room * len(shards.starts), config.num_kv_heads * repeat, config.head_dim)

    def keys(name: str) -> jax.Array:
        tensor = files.array(name, len(tokens))
        if tensor.shape[1] % len(about.starts) or tensor.shape[1] < about.shards.length:
            raise Torn(f"{KEYS}: {name} has no room for the tokens that {ABOUT} tells of")
        source = _Source(tensor, config.num_kv_heads, repeat, len(tokens))
        read = functools.partial(_dealt, source, about.shards, shards, room, max(about.encoded))
        return _put(mesh, shape, mesh_lib.CACHE, read)

    def turns(name: str) -> jax.Array:
        tensor = files.array(name, len(tokens))
        if tensor.shape[1] < max(about.rest(len(row), i) for i, row in enumerate(tokens)):
            raise Torn(f"{KEYS}: {name} has no room for the turns that {ABOUT} tells of")
        source = _Source(tensor, config.num_kv_heads, repeat, len(tokens))
        whole = (batch, tensor.shape[1], *shape[2:])
        return _put(mesh, whole, mesh_lib.TAIL, source.read)

    layers = range(config.num_layers)
    kept = tuple(Plain(keys(f"{g}.{i}.k"), keys(f"{g}.{i}.v")) for i in layers)
    cache = dealt(kept, shards, about.encoded + [0] * padding, runtime)
    if about.turns:
        rest = [about.rest(len(row), i) for i, row in enumerate(tokens)] + [0] * padding
        kv = KV(*(tuple(turns(f"{g}.{i}.turns.{kind}") for i in layers) for kind in "kv"))
        cache = cache._replace(turns=Turns(kv, runtime.put(np.asarray(rest, np.int32))))
    return Group(about.rows, tokens, about.encoded, cache, shards, mesh)


Index = tuple[slice, ...]


def _put(mesh: Mesh, shape: tuple[int, ...], spec: P, read: Any) -> jax.Array:
    """An array of which each device's part is read by itself."""

    def part(index: Index | None) -> np.ndarray:
        bounds = (
            slice(*one.indices(size)[:2]) for one, size in zip(index or (), shape, strict=True)
        )
        return read(tuple(bounds))

    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), part)


@dataclasses.dataclass(frozen=True)
class _Source:
    """An array on disk, read by rows and heads of the mesh at hand.

    repeat: how often the mesh has each key/value head. rows: those that are not padding.
    """

    tensor: orbax_files.Tensor
    num_kv_heads: int
    repeat: int
    rows: int

    def read(self, index: Index) -> np.ndarray:
        """[B, S, K, H], where `index` has S as it lies on disk; padding is zeros."""
        batch, keys, heads, features = index
        found = np.zeros([one.stop - one.start for one in index], self.tensor.stored)
        rows = slice(batch.start, min(batch.stop, self.rows))
        if rows.start >= rows.stop or keys.start >= keys.stop:
            return found
        copies = self.tensor.shape[2] // self.num_kv_heads
        at = np.arange(heads.start, heads.stop) // self.repeat * copies
        hull = slice(int(at[0]), int(at[-1]) + 1)
        read = orbax_files.read(self.tensor, (rows, keys, hull, features), self.tensor.stored)
        found[: rows.stop - rows.start] = read[:, :, at - at[0]]
        return found


def _dealt(
    source: _Source, old: Shards, new: Shards, room: int, length: int, index: Index
) -> np.ndarray:
    """The part of one device: its tokens, from wherever they lie on disk; the rest is zeros."""
    batch, keys, heads, features = index
    found = np.zeros([one.stop - one.start for one in index], source.tensor.stored)
    old_room = source.tensor.shape[1] // len(old.starts)
    # Where each chunk of the old shards lies on disk.
    where = {
        start: c * old_room + i * old.size
        for c, starts in enumerate(old.starts)
        for i, start in enumerate(starts)
    }
    for i, start in enumerate(new.starts[keys.start // room]):
        position, end = start, min(start + new.size, length)
        while position < end:
            chunk = position // old.size * old.size
            stop = min(end, chunk + old.size)
            at = where[chunk] + position - chunk
            to = i * new.size + position - start
            part = source.read((batch, slice(at, at + stop - position), heads, features))
            found[:, to : to + stop - position] = part
            position = stop
    return found
