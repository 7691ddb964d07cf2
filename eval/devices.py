"""What a command runs on: the mesh that its settings ask for, and a cache of compiled programs."""

import contextlib
import re
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from star_jax import mesh as mesh_lib
from star_jax.eval import places
from star_jax.sizes import whole


def make_mesh(*, data: int, context: int, tensor: int, cpu_devices: int, prefix: str) -> Mesh:
    """The mesh, of simulated CPU devices if `cpu_devices` are asked for; else of those there are.

    prefix: what stands before the names of these settings where the command is called.

    Raises:
      ValueError: an axis is below 1, or there are too few devices; it says which setting
        simulates them.
    """
    for name, size in (("data", data), ("context", context), ("tensor", tensor)):
        whole(f"{prefix}{name}", size)
    if cpu_devices:
        most = mesh_lib.MOST_SIMULATED
        if not 0 <= cpu_devices <= most:
            raise ValueError(
                f"{prefix}cpu_devices={cpu_devices} must be from 1 to {most}, or 0: none"
            )
        mesh_lib.simulate_cpu_devices(cpu_devices)
    try:
        return mesh_lib.make_mesh(data=data, context=context, tensor=tensor)
    except ValueError as e:
        size = data * context * tensor
        if "asks for" not in str(e):
            raise
        said = re.sub(r"\b(data|context|tensor)=", rf"{prefix}\1=", str(e))
        if size <= mesh_lib.MOST_SIMULATED:
            said += f"; {prefix}cpu_devices={size} simulates as many on the CPU"
        raise ValueError(said) from e


@contextlib.contextmanager
def compile_cache(directory: str) -> Iterator[None]:
    """Keeps compiled programs in a directory, for the next run; empty: wherever JAX is told to.

    Every program is kept: at JAX's own setting only those that took a second to compile would be.
    """
    if not directory:
        yield
        return
    with places.writable(directory):
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        yield
