"""What a command runs on: its processes, the mesh that its settings ask for, compiled programs."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from star_jax.runs import places
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime import processes
from star_jax.sizes import whole


@dataclasses.dataclass
class MeshConfig:
    """The axes of the device mesh, and the processes whose devices they are.

    data: contexts side by side.
    context: devices that share a context.
    tensor: devices that share each weight.
    cpu_devices: how many to simulate on the CPU, in each process; 0: none.
    coordinator: HOST:PORT of process 0, where there are several processes; auto: what Slurm,
      Open MPI 4 or Kubernetes say, one process a GPU; empty: there is one process.
    num_processes: how many there are; 0: what the cluster says.
    process_id: which this one is, from 0 on; -1: what the cluster says.
    timeout: seconds that processes wait for each other to come, and after which one that gives no
      sign of life ends the run.
    """

    data: int = 1
    context: int = 1
    tensor: int = 1
    cpu_devices: int = 0
    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    timeout: int = processes.TIMEOUT


def make_mesh(config: MeshConfig, *, prefix: str) -> Mesh:
    """The mesh, of simulated CPU devices if these are asked for; else of those there are.

    Where there are several processes, this is where they meet.

    prefix: what stands before the names of these settings where the command is called.

    Raises:
      ValueError: an axis is below 1, there are too few devices, or the settings of the processes
        contradict each other; it says which setting simulates devices.
    """
    for name in ("data", "context", "tensor"):
        whole(f"{prefix}{name}", getattr(config, name))
    if config.cpu_devices:
        most = mesh_lib.MOST_SIMULATED
        if not 0 <= config.cpu_devices <= most:
            raise ValueError(
                f"{prefix}cpu_devices={config.cpu_devices} must be from 1 to {most}, or 0: none"
            )
        mesh_lib.simulate_cpu_devices(config.cpu_devices)
    _meet(config, prefix)
    try:
        return mesh_lib.make_mesh(data=config.data, context=config.context, tensor=config.tensor)
    except ValueError as e:
        if "asks for" not in str(e) and "leaves" not in str(e):
            raise
        said = re.sub(r"\b(data|context|tensor)=", rf"{prefix}\1=", str(e))
        size = config.data * config.context * config.tensor
        if "asks for" in said and size <= mesh_lib.MOST_SIMULATED and processes.count() == 1:
            said += f"; {prefix}cpu_devices={size} simulates as many on the CPU"
        raise ValueError(said) from e


def _meet(config: MeshConfig, prefix: str) -> None:
    """Starts what joins the processes, if there are several."""
    if not config.coordinator:
        for name, unset in (("num_processes", 0), ("process_id", -1)):
            if (given := getattr(config, name)) != unset:
                raise ValueError(
                    f"{prefix}{name}={given} needs {prefix}coordinator, by which processes meet"
                )
        return
    try:
        processes.start(
            config.coordinator,
            num_processes=config.num_processes or None,
            process_id=None if config.process_id == -1 else config.process_id,
            timeout=config.timeout,
        )
    except ValueError as e:
        raise ValueError(f"{prefix}{e}") from e


def describe_mesh(mesh: Mesh) -> str:
    """The mesh in a line, with the devices that it leaves out."""
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    many = processes.count()
    unused = len(jax.devices()) - mesh.size
    return (
        f"mesh: {axes}, on {mesh.devices.flat[0].device_kind}"
        + (f", of {many} processes" if many > 1 else "")
        + (f"; {unused} more devices are not used" if unused else "")
    )


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
