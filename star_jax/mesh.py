"""The device mesh: its axes, and where each logical axis of a weight lies on it."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax.models.config import LlamaConfig
from star_jax.models.llama import Llama
from star_jax.sizes import shown, whole

AXES = ("data", "context", "tensor")
DATA, CONTEXT, TENSOR = AXES
MOST_SIMULATED = 1024  # devices; JAX starts with these in 4 s, and not in 100 s with 16,384

# Logical axis of a weight -> mesh axis. Weights are whole over `data` and `context`; see
# `placement` for sizes that a mesh axis does not divide.
RULES: dict[str, str | None] = {
    "vocab": TENSOR,
    "heads": TENSOR,
    "kv_heads": TENSOR,
    "mlp": TENSOR,
    "embed": None,
    "head": None,
}

# Layouts of the arrays that the programs exchange. Letters as in `array_typing`.
WHOLE = P()  # the same on all devices
ROWS = P(DATA)  # [B]
BLOCKS = P(DATA, CONTEXT)  # [B, C] or [B, T]: one block a device
QUERY = P(DATA, None)  # [B, T]: the same on every device of `context`
CACHE = P(DATA, CONTEXT, TENSOR, None)  # [B, S, K, H]: sharded over the context
TAIL = P(DATA, None, TENSOR, None)  # [B, S, K, H]: anchor and tail, whole over `context`


def make_mesh(
    *, data: int = 1, context: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of the first data * context * tensor devices, axes of type Auto.

    Where there are too few, `simulate_cpu_devices` makes as many as one likes, on the CPU.

    Raises:
      ValueError: an axis is below 1, or there are too few devices.
    """
    sizes = zip(AXES, (data, context, tensor), strict=True)
    shape = tuple(whole(f"the mesh axis {name}", size) for name, size in sizes)
    if devices is None:
        try:
            devices = jax.devices()
        except (AssertionError, RuntimeError) as e:  # JAX asserts that a platform has devices
            platforms = getattr(jax.config, "jax_platforms", None)
            raise ValueError(f"JAX finds no devices ({platforms=}): {e}") from e
    elif (
        not isinstance(devices, Sequence | np.ndarray)
        or getattr(devices, "ndim", 1) != 1
        or not all(isinstance(device, jax.Device) for device in devices)
    ):
        raise ValueError(f"devices={shown(devices)} must be a list of JAX devices")
    count = math.prod(shape)
    if count > len(devices):
        kind = f" ({devices[0].platform})" if len(devices) else ""
        raise ValueError(
            f"{data=} x {context=} x {tensor=} asks for {count} devices, and there are "
            f"{len(devices)}{kind}"
        )
    if len(set(devices[:count])) < count:
        raise ValueError(f"{devices=} has a device twice")
    grid = np.asarray(devices[:count]).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def simulate_cpu_devices(count: int) -> None:
    """Makes JAX run on `count` simulated CPU devices. Call it before anything uses JAX.

    Raises:
      ValueError: there cannot be so many.
      RuntimeError: JAX is in use already.
    """
    count = whole("cpu_devices", count)
    if count > MOST_SIMULATED:
        raise ValueError(f"cpu_devices={count} must be from 1 to {MOST_SIMULATED}")
    jax.config.update("jax_num_cpu_devices", count)  # first: it refuses when it is too late
    # XLA aborts the process when a simulated device waits 40 s for the others at a
    # collective, and on few cores the others may well take that long.
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds=1200"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    jax.config.update("jax_platforms", "cpu")


class Placement(NamedTuple):
    """Where a weight lies, and how often each of its key/value heads is repeated for that."""

    sharding: NamedSharding
    repeat: int


def placement(shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> Placement:
    """Where a weight of this shape, with these logical axes, lies on a mesh.

    A vocabulary that the `tensor` axis does not divide is whole on every device. Where there
    are fewer key/value heads than devices, each head is repeated, so that every device has
    the one that its query heads read.

    Raises:
      ValueError: heads or feed-forward units cannot be divided; it says the numbers.
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


def is_gpu(mesh: Mesh) -> bool:
    """Whether the mesh is of GPUs, present or compile-only (the default backend may differ)."""
    return mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")


def weight_specs(config: LlamaConfig, mesh: Mesh) -> Llama:
    """A model whose weights are their `PartitionSpec`s: the layout for `shard_map`."""
    return Llama(config, lambda name, shape, axes: placement(shape, axes, mesh).sharding.spec)


def place(model: Llama, mesh: Mesh) -> Llama:
    """The model with its weights where they belong; those that are there already do not move.

    Raises:
      ValueError: a weight cannot be divided; see `placement`.
    """

    def target(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> "_Target":
        try:
            sharding, repeat = placement(shape, axes, mesh)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from e
        return _Target(sharding, repeat, axes.index("kv_heads") if repeat > 1 else 0, shape)

    def put(weight: jax.Array, to: "_Target") -> jax.Array:
        if to.repeat > 1 and weight.shape == to.shape:
            weight = jnp.repeat(weight, to.repeat, axis=to.axis)
        return jax.device_put(weight, to.sharding)

    return jax.tree.map(put, model, Llama(model.config, target))


@dataclasses.dataclass(frozen=True)
class _Target:
    """Of one weight; a leaf of a pytree, which a tuple would not be."""

    sharding: NamedSharding
    repeat: int
    axis: int  # of the heads that are repeated
    shape: tuple[int, ...]  # in the checkpoint


def compiler_options(mesh: Mesh) -> dict[str, bool | int] | None:
    """XLA's options for every program."""
    if not is_gpu(mesh):
        return None
    return {
        # Only this scheduler hides the anchor's broadcast behind the projection of the queries.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Merging the dots of one query with context and tail would copy the context's keys.
        "xla_gpu_dot_merger_threshold_mb": 0,
    }


def putter(mesh: Mesh) -> Callable[..., jax.Array]:
    """A function that puts a host array on the mesh, by rows of the batch unless told otherwise."""

    def put(x: np.ndarray | np.generic, spec: P = ROWS) -> jax.Array:
        return jax.device_put(x, NamedSharding(mesh, spec))

    return put
