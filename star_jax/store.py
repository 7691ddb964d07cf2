"""A store of contexts, by their tokens: on the devices, in host memory, and on disk.

What was used longest ago goes first: from the devices to host memory, from there to disk, and
where there is no room either, it is forgotten. What is asked for comes back to the devices.
"""

import contextlib
import dataclasses
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from star_jax.cache import reading
from star_jax.cache.about import ABOUT, KEYS
from star_jax.cache.context import Context, Encoded
from star_jax.cache.sharded import Cache
from star_jax.checkpoint import orbax_files
from star_jax.engine import Engine
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime import processes
from star_jax.sizes import whole

MOST_BYTES = 2**63 - 1


class Bytes(NamedTuple):
    """What the contexts of a store take: on each device, in host memory, and on disk."""

    device: int
    host: int
    disk: int


@dataclasses.dataclass(eq=False)
class _Entry:
    """A context, in one or two places: what is on disk stays there when it comes back.

    device_bytes is on each device; until it has been there, about. shardings are of the arrays
    of `host`, which are NumPy's. hashes: see `Context.hashes`; None: it cannot be saved.
    """

    ids: np.ndarray  # int32
    device: Context | None = None
    host: Context | None = None
    path: str | None = None
    device_bytes: int = 0
    whole_bytes: int = 0  # in host memory, and about on disk
    shardings: Any = None
    hashes: list[str] | None = None


class Store:
    """Contexts of one engine, found by their tokens. It counts what it holds, not what is in use.

    device_bytes: how much of each device's memory they may take. host_bytes: of host memory.
    directory: where what finds no room there is saved; None: it is forgotten. Contexts that an
      earlier run has saved there are found again, of the same model, attention and cache.
    disk_bytes: how much may be there; None: no bound.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        device_bytes: int,
        host_bytes: int = 0,
        directory: str | os.PathLike[str] | None = None,
        disk_bytes: int | None = None,
    ):
        if processes.count() > 1:
            raise NotImplementedError("a store of contexts is of one process")
        self._engine = engine
        self._room = Bytes(
            whole("device_bytes", device_bytes, least=0, most=MOST_BYTES),
            whole("host_bytes", host_bytes, least=0, most=MOST_BYTES),
            MOST_BYTES
            if disk_bytes is None
            else whole("disk_bytes", disk_bytes, least=0, most=MOST_BYTES),
        )
        self._entries: dict[_Entry, None] = {}  # the least recently used first
        self._directory = None if directory is None else os.path.realpath(directory)
        if self._directory is not None:
            os.makedirs(self._directory, exist_ok=True)
            self._entries |= dict.fromkeys(self._saved(self._directory))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, tokens: Sequence[int] | np.ndarray) -> bool:
        """Whether there is a context of just these tokens."""
        ids = _ids(tokens)
        return any(np.array_equal(entry.ids, ids) for entry in self._entries)

    @property
    def bytes(self) -> Bytes:
        return Bytes(
            sum(entry.device_bytes for entry in self._in("device")),
            sum(entry.whole_bytes for entry in self._in("host")),
            sum(entry.whole_bytes for entry in self._in("path")),
        )

    def add(self, context: Encoded) -> None:
        """Keeps a context; one that has the same tokens gives way to it.

        Raises:
          ValueError: another engine has encoded it, or another attention, or it is kept in another
            dtype; or it is a batch.
        """
        if not isinstance(context, Context):
            raise ValueError(f"context={context!r} must be one context, and no batch")
        context.check(self._engine.mesh, self._engine.fingerprint)
        mine, its = self._engine.fingerprint, context.fingerprint
        if (its.attention, its.cache) != (mine.attention, mine.cache):
            raise ValueError(f"the engine of this store encodes otherwise than {context!r}")
        self.forget(context.tokens[0])
        entry = _Entry(_ids(context.tokens[0]), context)
        entry.device_bytes, entry.whole_bytes = _sizes(context)
        self._make_room(entry.device_bytes)
        self._entries[entry] = None
        self._make_room()

    def find(self, tokens: Sequence[int] | np.ndarray, *, least: int = 1) -> Context | None:
        """The context that shares the longest beginning with these tokens, cut to it.

        Of one that keeps some keys only, the beginning counts as far as it can be cut to.

        It comes back to the devices, if it is not there. None: none shares `least` tokens.
        """
        ids = _ids(tokens)
        while self._entries:
            shared = {entry: _shared(entry, ids) for entry in reversed(self._entries)}
            entry = max(shared, key=shared.__getitem__)
            length = shared[entry]
            if length < max(least, 1):
                return None
            context = self._back(entry)
            if context is not None:
                return context if length == len(entry.ids) else context.prefix(length)
        return None

    def forget(self, tokens: Sequence[int] | None = None) -> None:
        """Forgets the context of these tokens, or all; those on disk, too."""
        ids = None if tokens is None else _ids(tokens)
        for entry in list(self._entries):
            if ids is None or np.array_equal(entry.ids, ids):
                self._forget(entry)

    def _in(self, place: str) -> list[_Entry]:
        """Those in a place, the least recently used first."""
        return [entry for entry in self._entries if getattr(entry, place) is not None]

    def _forget(self, entry: _Entry) -> None:
        del self._entries[entry]
        if entry.path is not None:
            shutil.rmtree(entry.path, ignore_errors=True)

    def _back(self, entry: _Entry) -> Context | None:
        """The context on the devices, now the last one used; None: it cannot be read any more."""
        self._entries[entry] = self._entries.pop(entry)
        if entry.device is not None:
            return entry.device
        self._make_room(entry.device_bytes)
        if entry.host is not None:
            context = _with_caches(entry.host, jax.device_put(_caches(entry.host), entry.shardings))
        else:
            try:
                context = self._read(str(entry.path))
            except (OSError, ValueError) as e:
                warnings.warn(f"star_jax: a saved context is forgotten: {e}", stacklevel=3)
                self._forget(entry)
                return None
        entry.device, entry.host = context, None
        entry.device_bytes, entry.whole_bytes = _sizes(context)
        self._make_room()
        return context

    def _read(self, path: str) -> Context:
        context = self._engine.load_context(path)
        if not isinstance(context, Context):
            raise ValueError(f"path={path}: a batch was saved there")
        return context

    def _make_room(self, needed: int = 0) -> None:
        """Spills contexts until the devices, and all that they spill to, have what they may."""
        while self.bytes.device + needed > self._room.device and (held := self._in("device")):
            self._to_host(held[0])
        while self.bytes.host > self._room.host:
            self._to_disk(self._in("host")[0])

    def _to_host(self, entry: _Entry) -> None:
        context = entry.device
        if context is None:
            return
        if entry.path is None and self._directory is not None:
            with contextlib.suppress(NotImplementedError):
                context.check_saves()
                entry.hashes = context.hashes()
        caches = _caches(context)
        entry.shardings = jax.tree.map(lambda x: x.sharding, caches)
        # A copy: on CPU, NumPy would look into the device's own memory.
        entry.host = _with_caches(context, jax.tree.map(lambda x: np.array(x, copy=True), caches))
        entry.device = None

    def _to_disk(self, entry: _Entry) -> None:
        """Saves what is in host memory; forgets it if that cannot be."""
        if entry.path is None and not self._save(entry):
            self._forget(entry)
        entry.host = entry.shardings = None

    def _save(self, entry: _Entry) -> bool:
        """Whether the context in host memory could be saved."""
        hashes, size, room = entry.hashes, entry.whole_bytes, self._room.disk
        if self._directory is None or entry.host is None or hashes is None or size > room:
            return False
        while self.bytes.disk + size > room:
            self._off_disk(self._in("path")[0])
        path = os.path.join(self._directory, secrets.token_hex(8))
        try:
            entry.host.write(path, lambda: hashes)
        except OSError as e:
            warnings.warn(f"star_jax: a context is forgotten: {e}", stacklevel=4)
            return False
        entry.path = path
        return True

    def _off_disk(self, entry: _Entry) -> None:
        if entry.device is None and entry.host is None:
            self._forget(entry)
        elif entry.path is not None:
            shutil.rmtree(entry.path, ignore_errors=True)
            entry.path = None

    def _saved(self, directory: str) -> list[_Entry]:
        """Those that an earlier run has saved, the oldest first. Others are left alone."""
        found = []
        for folder in sorted(_folders(directory), key=os.path.getmtime):
            try:
                about, rows = reading.tokens(
                    folder, config=self._engine.config, fingerprint=self._engine.fingerprint
                )
            except (OSError, ValueError):
                continue
            how = about.attention, about.fingerprint["cache"]
            mine = self._engine.encoding, self._engine.fingerprint.cache
            if not about.is_batch and how == mine:
                size = orbax_files.size(folder, KEYS)
                each = size // self._engine.mesh.shape[mesh_lib.CONTEXT]
                found.append(
                    _Entry(_ids(rows[0]), path=folder, device_bytes=each, whole_bytes=size)
                )
        return found


def _ids(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.asarray(tokens, np.int32)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    differ = a[:length] != b[:length]
    return int(differ.argmax()) if differ.any() else length


def _shared(entry: _Entry, ids: np.ndarray) -> int:
    """The longest beginning of these tokens that the entry's context can be cut to."""
    length, held = _common(entry.ids, ids), entry.device or entry.host
    # What is on disk alone keeps all keys: others cannot be saved.
    return length if held is None else held.longest_prefix(length)


def _caches(context: Context) -> tuple[Cache, ...]:
    return tuple(group.cache for group in context.groups)


def _with_caches(context: Context, caches: tuple[Cache, ...]) -> Context:
    groups = zip(context.groups, caches, strict=True)
    return dataclasses.replace(
        context, groups=tuple(dataclasses.replace(group, cache=cache) for group, cache in groups)
    )


def _sizes(context: Context) -> tuple[int, int]:
    """The bytes of a context on each device, and of its arrays."""
    arrays = jax.tree.leaves(_caches(context))
    return (
        sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays),
        sum(x.nbytes for x in arrays),
    )


def _folders(directory: str) -> list[str]:
    """Directories that may be saved contexts."""
    with os.scandir(directory) as found:
        return [one.path for one in found if os.path.isfile(os.path.join(one.path, ABOUT))]
