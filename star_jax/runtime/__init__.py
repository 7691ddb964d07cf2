"""What everything runs on: the processes, their mesh of devices, and where arrays lie on it."""

from star_jax.runtime.mesh import make_mesh, simulate_cpu_devices

__all__ = ["make_mesh", "simulate_cpu_devices"]
