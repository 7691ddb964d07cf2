"""What cannot run is refused before anything is loaded, and what is unwise is warned of."""

import dataclasses

from jax.sharding import AxisType, Mesh

from star_jax.advice import Advice, warn
from star_jax.attention import for_compressed, resolve
from star_jax.models import DecoderConfig
from star_jax.prefill.keeping import Keep, longest_part
from star_jax.prefill.kinds import Kind, check_kind
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import weight_specs
from star_jax.sizes import shown

DTYPES = ("bfloat16", "float16", "float32")


def check(
    mesh: Mesh,
    attention: Kind,
    implementation: str | None,
    *,
    config: DecoderConfig | None = None,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    keep: Keep | None = None,
) -> str:
    """Refuses what cannot run, of this model if its config is there; names the implementation.

    That is the one that serves the model's head dim in this dtype, if both are given.

    Raises:
      ValueError, NotImplementedError: what cannot run, and why.
    """
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh={shown(mesh)} must be a mesh: make it with star_jax.make_mesh")
    if mesh.axis_names != mesh_lib.AXES:
        raise ValueError(f"a mesh with {mesh.axis_names=}: make it with star_jax.make_mesh")
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(f"a mesh with {mesh.axis_types=}: make it with star_jax.make_mesh")
    check_kind(attention)
    if config is not None:
        # Raises if a weight cannot be divided. One layer stands for all.
        weight_specs(dataclasses.replace(config, num_layers=1), mesh)
        attention.check(config, mesh)
    if keep is not None:
        _check_keep(keep, attention, config, mesh)
    head_dim = None if config is None else config.head_dim
    found = resolve(implementation, mesh, dtype=dtype, head_dim=head_dim)
    if cache_dtype is not None:
        for_compressed(found)
    if found == "cudnn" and {"correction", "content"} & attention.mending.keys():
        raise NotImplementedError(
            f"{attention!r} with implementation='cudnn', which shows queries all keys from the "
            "first on; others do not"
        )
    return found


def _check_keep(keep: Keep, attention: Kind, config: DecoderConfig | None, mesh: Mesh) -> None:
    if not isinstance(keep, Keep):
        raise ValueError(f"keep={shown(keep)} must be Keep(share=..., criterion=...), or None")
    if not attention.has_blocks:
        raise NotImplementedError(f"{keep!r} with {attention!r}: it needs blocks, and so Star")
    if (correction := attention.mending.get("correction")) is not None:
        raise NotImplementedError(
            f"{keep!r} with {correction=}: rows of later blocks read all "
            "keys of earlier ones; use a halo without a correction"
        )
    if config is not None:
        keep.check(config, tensor=mesh.shape[mesh_lib.TENSOR])


def check_window(window: int, rows: list[list[int]], attention: Kind, keep: Keep | None) -> None:
    """Raises NotImplementedError if documents cannot be cut where their windows begin."""
    if keep is None:
        return
    block, anchor = attention.sizes["block_size"], attention.sizes["anchor_size"]
    for start in range(0, max(map(len, rows)) - 1, window):
        if longest_part(start, block=block, anchor=anchor) < start:
            raise NotImplementedError(
                f"{window=} with {keep!r}: a document can be cut where a block ends, and not "
                f"after {start} tokens; use a multiple of block_size={block}"
            )


def advise(rows: list[list[int]], config: DecoderConfig, mesh: Mesh, attention: Kind) -> None:
    """Warns of contexts that are too long for the model, or too short for the mesh or to gain."""
    longest, most = max(map(len, rows)), config.max_position_embeddings
    if longest > most:
        warn(f"a context of {longest} tokens is beyond the model's {most} positions")
    for advice in attention.advice([len(row) for row in rows], config, mesh):
        warn(advice, Advice)
