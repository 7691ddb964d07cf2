"""The device and what is installed; and the rates that it reaches on the simplest work."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.clock import Pass, median_seconds
from star_jax.array_typing import Array
from star_jax.attention import device as device_lib

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "torch",
    "triton",
    "flax",
    "numpy",
)


def share_memory() -> None:
    """Lets JAX take the device's memory as it needs it. Call it before JAX sees the device.

    By default it takes three quarters at once, and never gives any back: PyTorch, in the same
    process, would find too little for its CUDA graphs, and cuDNN for its workspace.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def take_memory() -> None:
    """Lets JAX have nearly all of the device's memory. Call it before JAX sees the device.

    By default it has three quarters, which would decide what fits.
    """
    os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")


def circumstances(device: jax.Device, module: str) -> dict[str, Any]:
    """What a result depends on, and the command that gave it."""
    return {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": device_lib.name(device),
        "driver": _driver() if is_gpu(device) else None,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def is_gpu(device: jax.Device) -> bool:
    return device_lib.capability(device) is not None


def ceilings(device: jax.Device) -> dict[str, float]:
    """Measured: bytes/s of a copy, read and written ones counted, and FLOP/s of a matmul."""
    size = 2**28 if is_gpu(device) else 2**20
    width = 8192 if is_gpu(device) else 256
    keys = jax.random.split(jax.random.key(0), 4)
    x, y = (jax.random.normal(k, (size,), jnp.float32) for k in keys[:2])
    a, b = (jax.random.normal(k, (width, width), jnp.bfloat16) for k in keys[2:])

    @jax.jit
    def copy(x: Array, y: Array) -> tuple[Array, Array]:
        return -x, -y  # a copy that XLA cannot leave out

    @jax.jit
    def multiply(a: Array, b: Array) -> tuple[Array, Array]:
        return a @ b, b @ a

    return {
        "copy_bytes_per_second": 2 * 4 * size / _seconds_of_each(copy, x, y),
        "matmul_flops_per_second": 2 * width**3 / _seconds_of_each(multiply, a, b),
    }


def _seconds_of_each(function: Any, *args: Array) -> float:
    """Half of what the function takes: it does two."""
    return median_seconds(Pass(lambda: function(*args), jax.block_until_ready, 2))


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.split()), None)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
