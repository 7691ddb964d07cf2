"""Where weights lie on the mesh: the mesh axis of each logical axis of a weight."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax import models
from star_jax.models import Decoder, DecoderConfig
from star_jax.runtime.mesh import TENSOR

# Logical axis of a weight -> mesh axis. Weights are whole over `data` and `context`; see
# `placement_of` for sizes that a mesh axis does not divide.
RULES: dict[str, str | None] = {
    "vocab": TENSOR,
    "heads": TENSOR,
    "kv_heads": TENSOR,
    "mlp": TENSOR,
    "experts": TENSOR,
    "embed": None,
    "expert": None,
    "router": None,
    "head": None,
    "norm": None,
}


class Placement(NamedTuple):
    """Where a weight lies, and how often each of its key/value heads is repeated for that."""

    sharding: NamedSharding
    repeat: int


def placement_of(shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> Placement:
    """Where a weight of this shape, with these logical axes, lies on a mesh.

    A vocabulary that the `tensor` axis does not divide is whole on every device. Where there
    are fewer key/value heads than devices, each head is repeated, so that every device has
    the one that its query heads read.

    Raises:
      ValueError: heads, feed-forward units or experts cannot be divided; it says the numbers.
    """
    ranks = mesh.shape[TENSOR]
    over: list[str | None] = []
    repeat = 1
    for size, axis in zip(shape, axes, strict=True):
        rule = RULES[axis]
        if rule is not None and size % ranks:
            if axis == "vocab":
                rule = None
            elif axis == "kv_heads" and ranks % size == 0:
                repeat = ranks // size
            else:
                raise ValueError(f"{axis}={size} cannot be divided over {TENSOR}={ranks} devices")
        over.append(rule)
    return Placement(NamedSharding(mesh, P(*over)), repeat)


def weight_specs(config: DecoderConfig, mesh: Mesh) -> Decoder:
    """A model whose weights are their `PartitionSpec`s: the layout for `shard_map`."""
    return models.build(
        config, lambda name, shape, axes: placement_of(shape, axes, mesh).sharding.spec
    )


def place(model: Decoder, mesh: Mesh) -> Decoder:
    """The model with its weights where they belong; those that are there already do not move.

    Raises:
      ValueError: a weight cannot be divided; see `placement_of`.
    """

    def target(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> "_Target":
        try:
            sharding, repeat = placement_of(shape, axes, mesh)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from e
        return _Target(sharding, repeat, axes.index("kv_heads") if repeat > 1 else 0, shape)

    def put(weight: jax.Array, to: "_Target") -> jax.Array:
        if to.repeat > 1 and weight.shape == to.shape:
            weight = jnp.repeat(weight, to.repeat, axis=to.axis)
        if weight.sharding.is_equivalent_to(to.sharding, weight.ndim):
            return weight
        if weight.is_fully_addressable and not to.sharding.is_fully_addressable:
            # This process has all of it, as every other does: each puts its part there.
            whole = np.asarray(weight)
            return jax.make_array_from_callback(whole.shape, to.sharding, whole.__getitem__)
        return jax.device_put(weight, to.sharding)

    return jax.tree.map(put, model, models.build(model.config, target))


@dataclasses.dataclass(frozen=True)
class _Target:
    """Where one weight goes. JAX sees a class of ours as a leaf of a pytree."""

    sharding: NamedSharding
    repeat: int
    axis: int  # of the heads that are repeated
    shape: tuple[int, ...]  # in the checkpoint
