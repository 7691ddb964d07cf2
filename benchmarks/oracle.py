"""The float32 reference, on some queries and all of their keys; and who disagrees with it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Arrays, Problem, abstract
from star_jax import mesh as mesh_lib
from star_jax.array_typing import Array
from star_jax.attention import Partial, reference

OUT_TOLERANCE = 1e-2  # of |difference| / |expected|, in norm: outputs and weights are bfloat16
LSE_TOLERANCE = 1e-3  # of |difference| / max(1, |expected|), the largest
QUERIES, STRETCHES = 8, 8  # that are compared: stretches of neighbouring queries


class Wrong(ValueError):
    """An implementation disagrees with the reference."""


def compiled(problem: Problem, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """(arrays, starts [R]) -> the partial of queries start, ... of every stretch: [R, T, N, H]."""
    sharding = jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
    starts = jax.ShapeDtypeStruct((_count(problem),), "int32", sharding=sharding)

    def rows(arrays: Arrays, starts: Array) -> Partial:
        return _rows(problem, arrays, starts)

    # It is not timed: no use in trying out which of the library's matmuls is fastest.
    options: dict[str, str | bool] | None = None
    if mesh_lib.is_gpu(mesh):
        options = {"xla_gpu_autotune_level": "0"}
    return jax.jit(rows).lower(abstract(problem, sharding)[0], starts).compile(options)


def _rows(problem: Problem, arrays: Arrays, starts: Array) -> Partial:
    """One stretch and key head at a time: the reference repeats keys per query head, in float32."""
    heads = problem.kv_heads
    size = (1, _length(problem), problem.heads // heads, problem.head_dim)

    def one(at: Array) -> Partial:
        start, head = at[0], at[1]
        mine: dict[str, Any] = {
            name: jax.lax.dynamic_slice_in_dim(x, head, 1, axis=2) if x.ndim == 4 else x
            for name, x in arrays.items()
            if name != "q"
        }
        if problem.causal:
            mine["q_offset"] = start[None]
        q = jax.lax.dynamic_slice(arrays["q"], (0, start, head * size[2], 0), size)
        return reference.partial_attention(q, **mine, **problem.options())

    at = jnp.stack(jnp.meshgrid(starts, jnp.arange(heads), indexing="ij"), axis=-1)
    out, lse = jax.lax.map(one, at.reshape(-1, 2))  # [R * K, 1, T, G, H], [R * K, 1, T, G]

    def join(x: Array) -> Array:
        """[R * K, 1, T, G, ...] -> [R, T, K * G, ...]"""
        x = jnp.moveaxis(x.reshape(len(starts), heads, *x.shape[2:]), 1, 2)
        return x.reshape(*x.shape[:2], problem.heads, *x.shape[4:])

    return Partial(join(out), join(lse))


def starts(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """Where the stretches begin: at the first queries, at the last, and anywhere between."""
    last = problem.queries - _length(problem)
    between = rng.integers(0, last + 1, _count(problem))
    between[:1], between[-1:] = 0, last
    return between.astype(np.int32)


def check(
    actual: Partial, expected: Partial, starts: np.ndarray, *, who: str, problem: Problem
) -> dict[str, float]:
    """How far the partial of all queries is from the reference on its stretches.

    Args:
      actual: out [1, T, N, H] and lse [1, T, N].

    Raises:
      Wrong: too far.
    """
    length = _length(problem)

    def gather(x: Array) -> np.ndarray:
        rows = [jax.lax.dynamic_slice_in_dim(x, s, length, axis=1)[0] for s in starts]
        return np.asarray(jnp.stack(rows), np.float32)

    out, lse = gather(actual.out), gather(actual.lse)
    right, right_lse = np.asarray(expected.out), np.asarray(expected.lse)
    found = {
        "out": float(np.linalg.norm(out - right) / np.linalg.norm(right)),
        "lse": float(np.max(np.abs(lse - right_lse) / np.maximum(1, np.abs(right_lse)))),
    }
    for name, tolerance in (("out", OUT_TOLERANCE), ("lse", LSE_TOLERANCE)):
        if not found[name] <= tolerance:  # NaN is not
            raise Wrong(
                f"{who}, {problem}: {name} differs from the float32 reference by "
                f"{found[name]:.2g}, more than {tolerance}"
            )
    return found


def _length(problem: Problem) -> int:
    return min(QUERIES, problem.queries)


def _count(problem: Problem) -> int:
    return STRETCHES if problem.queries > QUERIES else 1
