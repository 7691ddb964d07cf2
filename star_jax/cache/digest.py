"""A hash of tokens, keys and values of a context, which says whether a saved one is whole.

Keys and values are hashed on the devices, as weights are, each with its position: it does not
matter on which device a token lies, how often a mesh repeats a head, nor which keys have scales in
common.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax.array_typing import Array, UInt32
from star_jax.cache import forms
from star_jax.cache.group import Group
from star_jax.cache.layer import LayerCache, Plain
from star_jax.checkpoint.fingerprint import mix, two_words
from star_jax.runtime import mesh as mesh_lib


def of_group(group: Group, *, num_kv_heads: int, encoding: object) -> str:
    """16 hexadecimal digits. Keys that no token has any more, after a cut, do not count.

    encoding: what the file says of how it was encoded; a change of it is noticed, too.
    """
    cache, mesh = group.cache, group.mesh
    padding = group.batch - len(group.tokens)
    encoded = np.asarray(group.encoded + [0] * padding, np.int32)
    hashed = _words_of(cache.layers, _places(group), encoded, num_kv_heads, mesh)
    if cache.turns is not None:
        kv = cache.turns.kv
        rest = np.asarray([len(row) for row in group.tokens] + [0] * padding, np.int32) - encoded
        places = np.arange(kv.k[0].shape[1], dtype=np.int32)
        turns = [Plain(k, v) for k, v in zip(kv.k, kv.v, strict=True)]
        hashed += _words_of(turns, places, rest, num_kv_heads, mesh)
    total = hashlib.blake2b(json.dumps(encoding, sort_keys=True).encode(), digest_size=8)
    for row in group.tokens:
        total.update(np.asarray([len(row), *row], "<i8").tobytes())
    for words in mesh_lib.fetch(hashed):
        total.update(words.astype("<u4").tobytes())
    return total.hexdigest()


def _places(group: Group) -> np.ndarray:
    """Which position lies where in the shards, as they lie one after another: -1 for none."""
    shards, keys = group.shards, forms.keys(group.cache.layers[0])
    places = np.full((len(shards.starts), keys // len(shards.starts)), -1, np.int32)
    positions = shards.positions().reshape(len(shards.starts), -1)
    places[:, : positions.shape[1]] = positions
    return places.reshape(-1)


def _words_of(
    layers: Sequence[LayerCache],
    places: np.ndarray,
    lengths: np.ndarray,
    num_kv_heads: int,
    mesh: Mesh,
) -> list[Array]:
    put = mesh_lib.put_on(mesh)
    at, length = put(places, mesh_lib.WHOLE), put(lengths, mesh_lib.WHOLE)
    words = _words(mesh, num_kv_heads)
    # One layer after the other: simulated devices deadlock when many all-reduces are in flight.
    return [two for one in layers for two in jax.block_until_ready(words(one, at, length))]


@functools.cache
def _words(
    mesh: Mesh, num_kv_heads: int
) -> Callable[[LayerCache, Array, Array], list[UInt32[Array, "2"]]]:
    """A program that hashes what a layer keeps; compiled per kind, shape and dtype."""

    def words(x: Array, at: Array, lengths: Array) -> Array:
        row, _, head, feature = (
            jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) for axis in range(4)
        )
        repeat = np.uint32(x.shape[2] // num_kv_heads)
        position = at[None, :, None, None]
        index = position.astype(jnp.uint32) * np.uint32(num_kv_heads) + head // repeat
        index = index * np.uint32(x.shape[3]) + feature + mix(row + np.uint32(1))
        counts = (position >= 0) & (position < lengths[:, None, None, None])
        return two_words(x, index, counts & (head % repeat == 0))

    def all_words(layer: LayerCache, at: Array, lengths: Array) -> list[Array]:
        return [words(x, at, lengths) for x in forms.by_key(layer)]

    return jax.jit(all_words, out_shardings=NamedSharding(mesh, mesh_lib.WHOLE))
