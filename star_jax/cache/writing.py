"""Contexts on disk, written as they lie on the devices.

A saved context is a directory: an Orbax checkpoint with the arrays of each layer's cache, and
context.json, which says what encoded them and how they lie. `reading` deals them out anew, on any
mesh.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax import interrupts, version
from star_jax.cache import forms
from star_jax.cache.about import ABOUT, FORMAT, KEYS
from star_jax.cache.group import Group
from star_jax.checkpoint import orbax_files
from star_jax.runtime import processes

_CHUNK = 4096  # bytes of the smallest that is read by itself


def save(
    path: str | os.PathLike[str],
    tokens: Sequence[Sequence[int]],
    groups: Sequence[Group],
    *,
    about: Mapping[str, Any],
    mesh: Mesh,
    digests: Callable[[], list[str]],
) -> None:
    """See `Encoded.save`. about: what else context.json says; digests: gives `digest.of_group`s."""
    target = processes.of_first(lambda: _target(path), mesh)
    parent, name = os.path.split(target)
    # On another node a process may have the same number.
    partial = processes.of_first(
        lambda: os.path.join(parent, f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial"),
        mesh,
    )
    with interrupts.held() as released:
        try:
            with released():
                processes.of_first(lambda: os.mkdir(partial), mesh)
                whole = {**about, "digests": digests()}
                arrays = dict(_arrays(tokens, groups))
                orbax_files.write_arrays(partial, KEYS, arrays, axes=_grouped(groups))
                processes.of_first(lambda: _write_about(partial, tokens, groups, whole), mesh)
            processes.of_first(lambda: _replace(partial, target), mesh)
        except OSError as e:
            raise OSError(f"path={target!r} could not be written: {e.strerror or e}") from e
        finally:
            if processes.is_first():
                shutil.rmtree(partial, ignore_errors=True)


def check(groups: Sequence[Group], mesh: Mesh) -> None:
    """Raises NotImplementedError for what cannot be saved."""
    for group in groups:
        if group.cache.kind not in forms.FORMS:
            raise NotImplementedError(
                f"a context kept as {group.cache.kind.__name__} cannot be saved"
            )
    if len({device.process_index for device in mesh.devices.flat}) < processes.count():
        raise NotImplementedError(
            "a context on the devices of some processes cannot be saved: Orbax waits for all"
        )


def _target(path: str | os.PathLike[str]) -> str:
    """The directory to make, checked before anything is written."""
    if not os.fspath(path):
        raise ValueError("path is empty: name the directory to make")
    target = os.path.realpath(os.path.expanduser(path))
    if not os.path.isdir(os.path.dirname(target)):
        raise ValueError(f"path={target!r}: {os.path.dirname(target)} is not a directory")
    is_ours = os.path.isfile(os.path.join(target, ABOUT))
    if os.path.lexists(target) and not (
        os.path.isdir(target) and (is_ours or not os.listdir(target))
    ):
        raise ValueError(f"path={target!r} is there already, and is no saved context")
    return target


def _replace(partial: str, target: str) -> None:
    """Puts the new directory in the old one's place; in between there is none."""
    if os.path.isdir(target):
        old = f"{partial}.old"
        os.rename(target, old)
        os.rename(partial, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(partial, target)


def _arrays(
    tokens: Sequence[Sequence[int]], groups: Sequence[Group]
) -> Iterator[tuple[str, jax.Array | np.ndarray]]:
    for i, row in enumerate(tokens):
        if row:  # Orbax writes nothing of an empty array
            yield f"tokens.{i}", np.asarray(row, np.int32)
    for g, group in enumerate(groups):
        for i, layer in enumerate(group.cache.layers):
            for name, x in forms.arrays(layer).items():
                yield f"{g}.{i}.{name}", x
        if group.cache.turns is not None:
            kv = group.cache.turns.kv
            for i, (k, v) in enumerate(zip(kv.k, kv.v, strict=True)):
                yield f"{g}.{i}.turns.k", k
                yield f"{g}.{i}.turns.v", v


def _grouped(groups: Sequence[Group]) -> dict[str, int]:
    """The arrays of keys that were compressed in groups, and the axis of these."""
    return {
        f"{g}.{i}.{name}": 1
        for g, group in enumerate(groups)
        for i, layer in enumerate(group.cache.layers)
        for name, x in forms.arrays(layer).items()
        # A chunk may be a head's part of a group; what is small goes into Orbax's index.
        if forms.FORMS[type(layer)][name].axes == "BGSKH" and x.shape[2] * x.shape[4] >= _CHUNK
    }


def _write_about(
    directory: str,
    tokens: Sequence[Sequence[int]],
    groups: Sequence[Group],
    about: Mapping[str, Any],
) -> None:
    orbax_files.write_list(directory, KEYS)
    whole = {
        **about,
        "format": FORMAT,
        "made_by": f"star_jax {version.read()}",
        "lengths": [len(row) for row in tokens],
        "groups": [
            {
                "rows": group.rows,
                "encoded": group.encoded,
                "starts": group.shards.starts,
                "size": group.shards.size,
                "turns": group.cache.turns is not None,
            }
            for group in groups
        ],
    }
    with open(os.path.join(directory, ABOUT), "w", encoding="utf-8") as file:
        json.dump(whole, file)
