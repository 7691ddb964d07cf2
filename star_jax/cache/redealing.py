"""The arrays of a saved context, dealt out anew: a device reads its keys from wherever they lie."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax.cache.forms import Form
from star_jax.cache.sharded import Shards
from star_jax.checkpoint import orbax_files

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """An array on disk, read by rows and heads of the mesh at hand.

    repeat: how often the mesh has each key/value head. rows: those that are not padding.
    """

    tensor: orbax_files.Tensor
    form: Form
    num_kv_heads: int
    repeat: int
    rows: int

    @property
    def sizes(self) -> dict[str, int]:
        """Of its axes, by their letters."""
        return dict(zip(self.form.axes, self.tensor.shape, strict=True))

    def read(self, index: Index) -> np.ndarray:
        """A part, with rows and heads of the mesh, and all else as on disk; padding is zeros."""
        axis = self.form.axes.index("K")
        batch, between, heads, rest = index[0], index[1:axis], index[axis], index[axis + 1 :]
        found = np.zeros([one.stop - one.start for one in index], self.tensor.stored)
        rows = slice(batch.start, min(batch.stop, self.rows))
        if rows.start >= rows.stop or any(one.start >= one.stop for one in between):
            return found
        copies = self.tensor.shape[axis] // self.num_kv_heads
        at = np.arange(heads.start, heads.stop) // self.repeat * copies
        hull = slice(int(at[0]), int(at[-1]) + 1)
        part = orbax_files.read(self.tensor, (rows, *between, hull, *rest), self.tensor.stored)
        found[: rows.stop - rows.start] = np.take(part, at - at[0], axis=axis)
        return found


@dataclasses.dataclass(frozen=True)
class Dealing:
    """How the keys of contexts of at most `length` tokens lay, and how they are to lie.

    old_room, new_room: keys that a device has room for, and of groups whole ones. old_group,
    new_group: how many keys were compressed together, and how many are to have what these have in
    common; None: none were.
    """

    old: Shards
    new: Shards
    old_room: int
    new_room: int
    length: int
    old_group: int | None
    new_group: int | None

    @classmethod
    def of(cls, source: Source, old: Shards, new: Shards, room: int, length: int) -> "Dealing":
        """Of an array of keys."""
        sizes, devices = source.sizes, len(old.starts)
        keys = sizes["S"] * sizes.get("G", 1) // devices
        if "G" not in sizes:
            return cls(old, new, keys, room, length, None, None)
        # A group may hold chunks that lie apart in the text. So many keys that follow each other
        # there are of one group.
        together = math.gcd(sizes["S"], old.size)
        # A new group has keys of one old group: a whole chunk's if it can, or fewer. Chunks of long
        # contexts are multiples of a sixteenth of a power of two, so that these are hundreds.
        group = math.gcd(new.size, together)
        ends = [(start, min(start + new.size, length)) for mine in new.starts for start in mine]
        if all(start // together == (end - 1) // together for start, end in ends if start < end):
            group = new.size
        return cls(old, new, keys, room // group * group, length, sizes["S"], group)

    def runs(self, device: int) -> Iterator[tuple[int, int, int]]:
        """Keys that lie one after another on disk: where they go on the device, at, how many."""
        where = {
            start: c * self.old_room + i * self.old.size
            for c, starts in enumerate(self.old.starts)
            for i, start in enumerate(starts)
        }
        for i, start in enumerate(self.new.starts[device]):
            position, end = start, min(start + self.new.size, self.length)
            while position < end:
                chunk = position // self.old.size * self.old.size
                stop = min(end, chunk + self.old.size)
                at = where[chunk] + position - chunk
                yield i * self.new.size + position - start, at, stop - position
                position = stop

    def read(self, source: Source, index: Index) -> np.ndarray:
        """The part of one device of an array; keys of no token are zeros."""
        if "G" not in source.form.axes:
            return self._keys(source, index[1].start // self.new_room, index[0], index[2:])
        groups = self.new_room // (self.new_group or 1)
        device = index[1].start // groups
        if "S" not in source.form.axes:
            return self._groups(source, device, index)
        flat = self._keys(source, device, index[0], index[3:])
        return flat.reshape(flat.shape[0], groups, -1, *flat.shape[2:])

    def _keys(self, source: Source, device: int, batch: slice, others: Index) -> np.ndarray:
        """What each key of a device has: [B, S, ...]."""
        shape = [one.stop - one.start for one in (batch, slice(0, self.new_room), *others)]
        found = np.zeros(shape, source.tensor.stored)
        for to, first, count in self.runs(device):
            if self.old_group is None:
                found[:, to : to + count] = source.read(
                    (batch, slice(first, first + count), *others)
                )
                continue
            at, end = first, first + count
            while at < end:
                group, begin = divmod(at, self.old_group)
                size = min(end - at, self.old_group - begin)
                middle = slice(group, group + 1), slice(begin, begin + size)
                part = source.read((batch, *middle, *others))[:, 0]
                found[:, to + at - first : to + at - first + size] = part
                at += size
        return found

    def _groups(self, source: Source, device: int, index: Index) -> np.ndarray:
        """What the keys of each group of a device have in common: [B, G, ...]."""
        found = np.zeros([one.stop - one.start for one in index], source.tensor.stored)
        old, new = self.old_group or 1, self.new_group or 1
        for to, first, count in self.runs(device):
            # Runs begin where groups do; the last one may end within one.
            for group in range(to // new, -(-(to + count) // new)):
                at = (first + group * new - to) // old
                part = source.read((index[0], slice(at, at + 1), *index[2:]))
                found[:, group : group + 1] = part
        return found

    def array(self, source: Source, mesh: Mesh, spec: P, sizes: tuple[int, int, int]) -> jax.Array:
        """An array of the mesh at hand. sizes: its rows, heads and features."""
        keys, devices = self.new_room, len(self.new.starts)
        of = dict(zip("BKH", sizes, strict=True))
        of["S"] = self.new_group or keys * devices
        of["G"] = keys * devices // of["S"]
        shape = tuple(of[axis] for axis in source.form.axes)
        return put(mesh, shape, spec, functools.partial(self.read, source))


def put(mesh: Mesh, shape: tuple[int, ...], spec: P, read: Any) -> jax.Array:
    """An array of which each device's part is read by itself."""

    def part(index: Index | None) -> np.ndarray:
        bounds = (
            slice(*one.indices(size)[:2]) for one, size in zip(index or (), shape, strict=True)
        )
        return read(tuple(bounds))

    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), part)
