"""The sharded cache of a context: one K/V entry per token, on the device that encoded it.

On each device the valid keys are a prefix of its shard, in whatever order the context
was dealt out: positions are in the keys (RoPE), and attention does not care where in
memory a key lies.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from star_jax.array_typing import Array
from star_jax.cache.layer import LayerCache
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Runtime

# Keys that a device has room for are a multiple of this: copies by TMA want it, and a kernel that
# is given anything else would pad, and so copy, a layer's whole cache for every token.
ROUND = 8

Layers = tuple[Array, ...]
Pair = tuple[Array, Array]  # keys and values of a layer
Pairs = dict[int, Pair]  # of some layers, by their index
PerLayer = int | tuple[int, ...]


class KV(NamedTuple):
    """Keys (after RoPE) and values, one array [B, S, K, H] per layer."""

    k: Layers
    v: Layers


Kept = tuple[LayerCache, ...]  # of a context: for each layer what it keeps


class Turns(NamedTuple):
    """The earlier turns of a dialogue: what was asked and answered since phase 1."""

    kv: KV  # S whole on every device of `context`: layout `mesh.TAIL`
    valid: Array  # [B], valid keys, layout `mesh.ROWS`


class Cache(NamedTuple):
    """What phase 2 reads of a context; never written by a query."""

    layers: Kept  # S sharded over `context`
    valid: Array  # [B, C], valid keys on each device, layout `mesh.BLOCKS`
    turns: Turns | None = None
    last: Array | None = None  # of models with windows: see `Shards.last`; layout `mesh.PLACES`

    @property
    def kind(self) -> type[LayerCache]:
        return type(self.layers[0])


@dataclasses.dataclass(frozen=True)
class Shards:
    """How a context is dealt out to the devices of `context`.

    Device c holds, one after another, tokens starts[c][i] ... starts[c][i] + size - 1. The
    starts of a device grow: whatever the length of a context, or of a part of it from its
    first token on, its keys are a prefix of every shard.
    """

    starts: tuple[tuple[int, ...], ...]
    size: int

    @property
    def length(self) -> int:
        """How many tokens the longest context has that fits."""
        return sum(map(len, self.starts)) * self.size

    def positions(self) -> np.ndarray:
        """The position of every token, in the order of the shards: [length]."""
        return (np.asarray(self.starts)[..., None] + np.arange(self.size)).reshape(-1)

    def valid(self, lengths: list[int]) -> np.ndarray:
        """How many keys of every shard are of contexts of these lengths: int32 [B, C]."""
        begin = np.asarray(self.starts)  # [C, parts]
        inside = np.asarray(lengths)[:, None, None] - begin
        return np.clip(inside, 0, self.size).sum(axis=-1, dtype=np.int32)

    def longest(self, length: int, encoded: int) -> int:
        """The longest part of at most `length` tokens that one of `encoded` can be cut to."""
        del encoded
        return length

    def last(self, lengths: list[int], count: int) -> np.ndarray:
        """Where the last `count` tokens of such contexts lie in every shard: int32 [B, C, count].

        It is -1 for those that lie in another shard, and for those before the first token.
        """
        chunks = np.asarray(self.starts) // self.size  # [C, parts]
        shard, part = np.empty(chunks.size, np.int32), np.empty(chunks.size, np.int32)
        shard[chunks], part[chunks] = np.indices(chunks.shape)
        position = np.asarray(lengths)[:, None] - count + np.arange(count)
        chunk, rest = np.divmod(np.maximum(position, 0), self.size)
        here = shard[chunk][:, None] == np.arange(len(chunks))[:, None]
        found = np.where(position < 0, -1, part[chunk] * self.size + rest)
        return np.where(here, found[:, None], -1).astype(np.int32)


def dealt(kept: Kept, shards: Shards, lengths: list[int], runtime: Runtime) -> Cache:
    """What the devices keep of contexts, with what phase 2 must know of where it lies."""
    config = runtime.config
    valid = runtime.put(shards.valid(lengths), mesh_lib.BLOCKS)
    if config.window is None:
        return Cache(kept, valid)
    last = runtime.put(shards.last(lengths, config.reach), mesh_lib.PLACES)
    return Cache(kept, valid, last=last)


def resize(cache: Kept, keys: PerLayer, *, of: PerLayer, wave: PerLayer, mesh: Mesh) -> Kept:
    """A copy of the cache with room for `keys` keys on every device: zeros are added, or it is cut.

    of: the keys that every device has room for now. wave: those that one wave gives it. Layers may
    have numbers of their own.
    """
    numbers = (_per_layer(one, len(cache)) for one in (keys, of, wave))
    return _resize(mesh, type(cache[0]), tuple(zip(*numbers, strict=True)))(cache)


def _per_layer(numbers: PerLayer, count: int) -> tuple[int, ...]:
    return (numbers,) * count if isinstance(numbers, int) else numbers


@functools.cache
def _resize(
    mesh: Mesh, kind: type[LayerCache], sizes: tuple[tuple[int, int, int], ...]
) -> Callable[[Kept], Kept]:
    def one(x: Array, keys: int, of: int, wave: int) -> Array:
        entries = keys
        if x.shape[1] != of:
            # A kind may keep a few entries for each wave. Keys are rounded up, and waves are not.
            entries = keys // wave * -(-x.shape[1] * wave // of)
        more = max(entries - x.shape[1], 0)
        return jnp.pad(x[:, :entries], ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))

    def all_layers(cache: Kept) -> Kept:
        return tuple(
            jax.tree.map(functools.partial(one, keys=keys, of=of, wave=wave), layer)
            for layer, (keys, of, wave) in zip(cache, sizes, strict=True)
        )

    layout = (kind.layout(),) * len(sizes)
    local = jax.shard_map(
        all_layers,
        mesh=mesh,
        in_specs=(layout,),
        out_specs=layout,
        check_vma=False,
    )
    return jax.jit(local)


def write(cache: Kept, wave: Kept, index: int, *, mesh: Mesh) -> Kept:
    """Writes wave `index` into every device's shard. The old cache is donated."""
    return _write(mesh, type(cache[0]), len(cache))(cache, wave, np.int32(index))


@functools.cache
def _write(
    mesh: Mesh, kind: type[LayerCache], layers: int
) -> Callable[[Kept, Kept, np.int32], Kept]:
    def write_wave(cache: Kept, wave: Kept, index: Array) -> Kept:
        def one(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, index * new.shape[1], axis=1)

        return jax.tree.map(one, cache, wave)

    layout = (kind.layout(),) * layers
    local = jax.shard_map(
        write_wave,
        mesh=mesh,
        in_specs=(layout, layout, P()),
        out_specs=layout,
        check_vma=False,
    )
    return jax.jit(local, donate_argnums=0)


def join(*parts: tuple[KV, Array], size: int, mesh: Mesh) -> Turns:
    """The valid keys of several parts, one after another for each row, with room for `size`.

    Each part is K/V in the layout `mesh.TAIL`, and how many of them are valid: [B].
    """
    pairs = tuple((kv, valid) for kv, valid in parts)  # some are `Turns`
    return Turns(*_join(mesh, size, len(pairs))(pairs))


@functools.cache
def _join(
    mesh: Mesh, size: int, count: int
) -> Callable[[tuple[tuple[KV, Array], ...]], tuple[KV, Array]]:
    def join_parts(parts: tuple[tuple[KV, Array], ...]) -> tuple[KV, Array]:
        room = [kv.k[0].shape[1] for kv, _ in parts]
        valid = jnp.stack([valid for _, valid in parts], axis=1)  # [B, parts]
        ends = jnp.cumsum(valid, axis=1)
        key = jnp.arange(size)
        # Which part each key comes from, and where the keys of that part lie.
        part = (key[None, :, None] >= ends[:, None, :]).sum(axis=-1)  # [B, S]
        part = jnp.minimum(part, len(parts) - 1)
        shift = np.cumsum([0, *room[:-1]]) - (ends - valid)  # [B, parts]
        at = jnp.clip(key + jnp.take_along_axis(shift, part, axis=1), 0, sum(room) - 1)

        def one(*arrays: Array) -> Array:
            whole = jnp.concatenate(arrays, axis=1)
            return jnp.take_along_axis(whole, at[:, :, None, None], axis=1)

        return jax.tree.map(one, *(kv for kv, _ in parts)), ends[:, -1]

    layout = (mesh_lib.TAIL, mesh_lib.ROWS)
    local = jax.shard_map(
        join_parts,
        mesh=mesh,
        in_specs=((layout,) * count,),
        out_specs=layout,
        check_vma=False,
    )
    return jax.jit(local)


def bucket(length: int, *, least: int = 16) -> int:
    """The power of two, at least `least`, that programs for this length are compiled for."""
    return max(least, 1 << (length - 1).bit_length()) if length > 0 else least


def eighths(length: int, *, least: int = 1) -> int:
    """The next multiple of an eighth of a power of two, below `length`, or of `least`.

    So at most an eighth is for nothing, and programs are compiled for eight sizes per octave.
    """
    step = max(bucket(length, least=1) // 16, least)
    return -(-length // step) * step


def pad(rows: list[list[int]], length: int) -> np.ndarray:
    """Token ids as a matrix [len(rows), length]. Padding is 0, and never counts as valid."""
    tokens = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens
