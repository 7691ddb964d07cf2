"""Saved contexts, dealt out anew where they are loaded; see `writing`.

Nothing on disk depends on the mesh that reads it: a device reads its tokens from wherever they lie.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from star_jax import json_files
from star_jax.attention import for_compressed
from star_jax.cache import digest
from star_jax.cache.about import ABOUT, KEYS, About, GroupAbout, Torn
from star_jax.cache.compressed import of_dtype
from star_jax.cache.context import Context, ContextBatch
from star_jax.cache.forms import FORMS, Form
from star_jax.cache.group import Group
from star_jax.cache.layer import LayerCache, Plain
from star_jax.cache.redealing import Dealing, Source, put
from star_jax.cache.sharded import KV, Turns, dealt
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
    files.check_names(about, _kept_as(about))
    return about, files, [files.tokens(i, length) for i, length in enumerate(about.lengths)]


def _kept_as(about: About) -> type[LayerCache]:
    """The kind of layer cache that was saved."""
    try:
        return of_dtype(about.fingerprint["cache"])
    except ValueError as e:
        raise Torn(f"{ABOUT}: {e}") from e


def _load(
    directory: str, runtime: Runtime, fingerprint: Fingerprint, kind_of: KindOf
) -> Context | ContextBatch:
    about, files, rows = _opened(directory, runtime.config, fingerprint)
    if about.fingerprint["cache"] is not None:
        for_compressed(runtime.implementation)  # before gigabytes are read
    try:
        kind = kind_of(about.attention)
    except ValueError as e:
        raise Torn(f"{ABOUT}: {e}") from e
    made = dataclasses.replace(
        fingerprint,
        attention=repr(kind),
        tokenizer=about.fingerprint["tokenizer"],
        cache=about.fingerprint["cache"],
    )
    kept_as = _kept_as(about)
    groups = tuple(
        _group(files, g, group, rows, kind, kept_as, runtime)
        for g, group in enumerate(about.groups)
    )
    heads = runtime.config.num_kv_heads
    for group, expected in zip(groups, about.digests, strict=True):
        if digest.of_group(group, num_kv_heads=heads, encoding=about.attention) != expected:
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

    def check_names(self, about: About, kept_as: type[LayerCache]) -> None:
        names = {f"tokens.{i}" for i, length in enumerate(about.lengths) if length}
        for g, group in enumerate(about.groups):
            parts = [*FORMS[kept_as], *(("turns.k", "turns.v") if group.turns else ())]
            names |= {f"{g}.{i}.{part}" for i in range(self.config.num_layers) for part in parts}
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

    def array(self, name: str, form: Form, rows: int) -> orbax_files.Tensor:
        """An array of a layer; its rows, keys and copies of heads are its own."""
        tensor, config = self.tensors[name], self.config
        sizes = dict(zip(form.axes, tensor.shape, strict=False))
        fits = (
            len(tensor.shape) == len(form.axes)
            and sizes["B"] >= rows
            and sizes["K"] > 0
            and sizes["K"] % config.num_kv_heads == 0
            and sizes.get("H", config.head_dim) == config.head_dim
            and tensor.stored.name == (form.dtype or self.dtype)
        )
        if not fits:
            raise Torn(
                f"{KEYS}: {name} is {tensor.stored}{list(tensor.shape)}, which the model's keys "
                "are not"
            )
        return tensor


def _check_room(found: dict[str, Source], about: GroupAbout) -> None:
    """Raises Torn unless a layer's arrays have the same keys, and all of the shards'."""
    of_keys, devices, size = found["k"].sizes, len(about.starts), about.size
    for source in found.values():
        sizes = source.sizes
        if any(sizes[axis] != of_keys[axis] for axis in "GS" if axis in sizes):
            raise Torn(f"{KEYS}: {source.tensor.name} has not as many keys as others of its layer")
    together, groups = of_keys["S"], of_keys.get("G")
    fits = together * (groups or 1) >= about.shards.length
    if groups is None:
        fits = fits and together % devices == 0
    else:
        fits = fits and groups % devices == 0 and 0 in (together % size, size % together)
    if not fits:
        name = found["k"].tensor.name
        raise Torn(f"{KEYS}: {name} has no room for the tokens that {ABOUT} tells of")


def _group(
    files: _Files,
    g: int,
    about: GroupAbout,
    rows: list[list[int]],
    kind: Any,
    kept_as: type[LayerCache],
    runtime: Runtime,
) -> Group:
    """Deals out the keys of some rows as `kind` deals them on this mesh."""
    mesh, config = runtime.mesh, runtime.config
    shards, room = kind.deal(max(1, *about.encoded), mesh.shape[mesh_lib.CONTEXT])
    tokens = [rows[i] for i in about.rows]
    padding = -len(tokens) % mesh.shape[mesh_lib.DATA]
    repeat = placement_of((config.num_kv_heads,), ("kv_heads",), mesh).repeat
    sizes = len(tokens) + padding, config.num_kv_heads * repeat, config.head_dim

    def source(name: str, form: Form) -> Source:
        tensor = files.array(name, form, len(tokens))
        return Source(tensor, form, config.num_kv_heads, repeat, len(tokens))

    def layer(i: int) -> LayerCache:
        found = {name: source(f"{g}.{i}.{name}", form) for name, form in FORMS[kept_as].items()}
        _check_room(found, about)
        dealing = Dealing.of(found["k"], about.shards, shards, room, max(about.encoded))
        if dealing.new_group not in (None, shards.size) and not kind.is_exact:
            raise Torn(f"{KEYS}: keys of {kind} that were not compressed block by block")
        layout = kept_as.layout()._asdict()
        return kept_as(
            **{name: dealing.array(one, mesh, layout[name], sizes) for name, one in found.items()}
        )

    def turns(name: str) -> jax.Array:
        one = source(name, FORMS[Plain]["k"])
        keys = one.sizes["S"]
        if keys < max(about.rest(len(row), i) for i, row in enumerate(tokens)):
            raise Torn(f"{KEYS}: {name} has no room for the turns that {ABOUT} tells of")
        return put(mesh, (sizes[0], keys, *sizes[1:]), mesh_lib.TAIL, one.read)

    layers = range(config.num_layers)
    cache = dealt(tuple(map(layer, layers)), shards, about.encoded + [0] * padding, runtime)
    if about.turns:
        rest = [about.rest(len(row), i) for i, row in enumerate(tokens)] + [0] * padding
        kv = KV(*(tuple(turns(f"{g}.{i}.turns.{name}") for i in layers) for name in "kv"))
        cache = cache._replace(turns=Turns(kv, runtime.put(np.asarray(rest, np.int32))))
    return Group(about.rows, tokens, about.encoded, cache, shards, mesh)
