"""Attention by JAX's implementations, ours and cuDNN's, as programs to be timed."""

from typing import Any

import jax

from benchmarks.clock import Pass
from benchmarks.problems import Arrays, Problem, abstract
from star_jax.attention import Partial, partial_attention, resolve
from star_jax.runtime import mesh as mesh_lib

IMPLEMENTATIONS = ("mosaic", "triton", "cudnn", "xla")


def absent(mesh: jax.sharding.Mesh) -> dict[str, str]:
    """The implementations that cannot run on the mesh's devices, and why."""
    reasons = {}
    for name in IMPLEMENTATIONS:
        try:
            resolve(name, mesh)
        except (ImportError, NotImplementedError) as e:
            reasons[name] = str(e)
    return reasons


def compiled(problem: Problem, implementation: str, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """A program of one call on each set of inputs, for the first device of the mesh.

    Compiled from shapes alone, with the options of the engine's own programs.
    """
    options: dict[str, Any] | None = mesh_lib.compiler_options(mesh)
    if options is not None:
        # Where XLA makes a CUDA graph of the calls, its nodes must run one after another.
        options = options | {"xla_gpu_command_buffer_scheduling_mode": "SERIALIZE"}
    inputs = abstract(problem, jax.sharding.SingleDeviceSharding(mesh.devices.flat[0]))

    def calls(sets: list[Arrays]) -> list[Partial]:
        return _calls(sets, problem, implementation)

    return jax.jit(calls, compiler_options=options).lower(inputs).compile()


def _calls(sets: list[Arrays], problem: Problem, implementation: str) -> list[Partial]:
    """Every call is wanted, since all results are returned, and differs in all its inputs.

    So none can be elided, or merged with another. The barrier also keeps XLA from fusing parts
    of one call with parts of the next, or from preparing the keys of all of them first.
    """

    @jax.jit  # traced and lowered once for all sets
    def attend(arrays: Arrays) -> Partial:
        return partial_attention(
            arrays["q"],
            problem.segments(arrays),
            scale=problem.scale,
            implementation=implementation,
        )

    parts: list[Partial] = []
    for arrays in sets:
        if parts:
            arrays, _ = jax.lax.optimization_barrier((arrays, parts[-1]))
        parts.append(attend(arrays))
    return parts


def to_time(program: jax.stages.Compiled, sets: list[Arrays]) -> Pass:
    """A pass of the program."""
    return Pass(lambda: program(sets), jax.block_until_ready, len(sets), lambda parts, i: parts[i])
