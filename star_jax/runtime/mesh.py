"""The device mesh: its axes, and how the arrays that the programs exchange lie on it."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from star_jax.sizes import shown, whole

AXES = ("data", "context", "tensor")
DATA, CONTEXT, TENSOR = AXES
MOST_SIMULATED = 1024  # devices; JAX starts with these in 4 s, and not in 100 s with 16,384

# Layouts of the arrays that the programs exchange. Letters as in `array_typing`.
WHOLE = P()  # the same on all devices
ROWS = P(DATA)  # [B]
BLOCKS = P(DATA, CONTEXT)  # [B, C] or [B, T]: one block a device
PLACES = P(DATA, CONTEXT, None)  # [B, C, some]: places in each device's shard
QUERY = P(DATA, None)  # [B, T]: the same on every device of `context`
CACHE = P(DATA, CONTEXT, TENSOR, None)  # [B, S, K, H]: sharded over the context
TAIL = P(DATA, None, TENSOR, None)  # [B, S, K, H]: anchor and tail, whole over `context`


def make_mesh(
    *, data: int = 1, context: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of the first data * context * tensor devices of all processes, axes of type Auto.

    Where there are too few, `simulate_cpu_devices` makes any number of them on the CPU.

    Raises:
      ValueError: an axis is below 1, there are too few devices, or a process has none on the mesh.
    """
    are_given = devices is not None
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
    if not are_given:
        idle = {d.process_index for d in devices} - {d.process_index for d in devices[:count]}
        if idle:
            raise ValueError(
                f"{data=} x {context=} x {tensor=} leaves processes without a device: "
                f"{', '.join(map(str, sorted(idle)))}"
            )
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


def is_gpu(mesh: Mesh) -> bool:
    """Whether the mesh is of GPUs, present or compile-only (the default backend may differ)."""
    return mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")


def compiler_options(mesh: Mesh) -> dict[str, bool | int] | None:
    """XLA's options for every program."""
    if not is_gpu(mesh):
        return None
    return {
        # Only this scheduler hides the anchor's broadcast behind the projection of the queries.
        "xla_gpu_enable_latency_hiding_scheduler": True,
        # Anchor and halo are on their way at the same time.
        "xla_gpu_experimental_parallel_collective_overlap_limit": 4,
        # Merging the dots of one query with context and tail would copy the context's keys.
        "xla_gpu_dot_merger_threshold_mb": 0,
    }


def put_on(mesh: Mesh) -> Callable[..., jax.Array]:
    """A function that puts a host array on the mesh, by rows of the batch unless told otherwise.

    Where there are several processes, each has the whole array, and puts its devices' part. They
    do not ask each other whether it is the same, as they would in `jax.device_put`.
    """

    def put(x: np.ndarray | np.generic, spec: P = ROWS) -> jax.Array:
        host, sharding = np.asarray(x), NamedSharding(mesh, spec)
        with jax.transfer_guard_host_to_device("allow"):  # it is asked for; JAX does not see that
            return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return put


def fetch(tree: Any) -> Any:
    """The arrays of a pytree on the host, whole.

    Where a process holds but a part of one, the parts are gathered first: all must call this.
    """

    def gathered(x: jax.Array) -> jax.Array:
        if not isinstance(x.sharding, NamedSharding) or x.is_fully_addressable:
            return x
        return x if x.is_fully_replicated else _gather(x.sharding.mesh)(x)

    return jax.device_get(jax.tree.map(gathered, tree))


@functools.cache
def _gather(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, WHOLE))
