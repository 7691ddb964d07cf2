"""The programs that `benchmarks.attention` times, compiled for an H200, with our kernels."""

import aot
import pytest

from benchmarks import ours
from benchmarks.problems import Problem

MESH = aot.gpu_mesh("h200", context=1)


@pytest.mark.parametrize(
    ("kind", "keys"), [("causal", 2048), ("full", 2048), ("anchor+local", 2048), ("decode", 8192)]
)
def test_as_many_kernels_run_as_calls_are_counted(kind, keys):
    """Each on inputs of its own, and no input is copied on its way there."""
    problem = Problem(kind, "8B", 128, keys)
    program = aot.Program(ours.compiled(problem, "mosaic", MESH))
    kernels = [i for i in program.instructions() if i.opcode == "custom-call"]
    assert len(kernels) == problem.sets > 1
    assert len({i.operands[1:3] for i in kernels}) == problem.sets
    assert program.moves(problem.keys * problem.kv_heads * problem.head_dim) == []
