"""What cannot run is refused before anything is loaded, and what is unwise is warned of."""

import dataclasses
import sys
import warnings

from jax.sharding import AxisType, Mesh

from star_jax import mesh as mesh_lib
from star_jax.attention import resolve
from star_jax.dense import Dense
from star_jax.models import DecoderConfig
from star_jax.placement import weight_specs
from star_jax.ring import Ring
from star_jax.sizes import shown
from star_jax.star import Star
from star_jax.ulysses import Ulysses

DTYPES = ("bfloat16", "float16", "float32")

Attention = Star | Dense | Ring | Ulysses


def check(
    mesh: Mesh,
    attention: Attention,
    implementation: str | None,
    *,
    config: DecoderConfig | None = None,
    dtype: str | None = None,
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
    if not isinstance(attention, Attention):
        raise ValueError(
            f"attention={shown(attention)} must be Star(...), Ring(), Ulysses() or Dense()"
        )
    if config is not None:
        _check_layers(config)
        # Raises if a weight cannot be divided. One layer stands for all.
        weight_specs(dataclasses.replace(config, num_layers=1), mesh)
        if isinstance(attention, Ulysses):
            attention.check(config, mesh)
    head_dim = None if config is None else config.head_dim
    return resolve(implementation, mesh, dtype=dtype, head_dim=head_dim)


def _check_layers(config: DecoderConfig) -> None:
    for spec in config.layers:
        if spec.window is not None:
            raise NotImplementedError(
                f"layer {spec.index} has window={spec.window}: keys of other blocks and devices "
                "lie in it, and nothing brings them there yet"
            )


def advise(rows: list[list[int]], config: DecoderConfig, mesh: Mesh, attention: Attention) -> None:
    """Warns of contexts that are too long for the model, or too short for the mesh or to gain."""
    longest, most = max(map(len, rows)), config.max_position_embeddings
    if longest > most:
        warn(f"a context of {longest} tokens is beyond the model's {most} positions")
    devices = mesh.shape[mesh_lib.CONTEXT]
    if isinstance(attention, Star):
        size = attention.block_size
        blocks = -(-longest // size)
        if blocks < devices:
            warn(
                f"{blocks} block(s) of {size} tokens for {devices} devices on the context "
                f"axis: {devices - blocks} idle; use smaller blocks"
            )
        if blocks <= 2:
            warn(
                f"{longest} tokens are {blocks} block(s) of {size}: exact attention would be "
                "as fast; use Ring() or Dense(), or smaller blocks"
            )


def warn(message: str) -> None:
    """Warns whoever has called the library."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == "star_jax":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"star_jax: {message}", UserWarning, stacklevel=level)
