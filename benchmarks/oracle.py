"""The float32 reference, on some queries and all of their keys; and who disagrees with it."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Arrays, Problem, abstract
from star_jax.array_typing import Array
from star_jax.attention import Partial, reference
from star_jax.runtime import mesh as mesh_lib

OUT_TOLERANCE = 1e-2  # of |difference| / |expected|, in norm: outputs and weights are bfloat16
# The same of each query and head by itself, the largest. Under a causal mask |out|^2 falls like
# 1/keys: in a norm over all rows the first queries hide what the last ones get wrong.
ROW_TOLERANCE = 5e-2
# The largest |difference|; where 1e-5 |expected| is larger, that is allowed.
LSE_TOLERANCE, LSE_RELATIVE = 1e-3, 1e-5
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
        mine = {
            name: jax.lax.dynamic_slice_in_dim(x, head, 1, axis=2) if x.ndim == 4 else x
            for name, x in arrays.items()
            if name != "q"
        }
        q = jax.lax.dynamic_slice(arrays["q"], (0, start, head * size[2], 0), size)
        segments = problem.segments(mine, offset=start[None])
        return reference.attend(q, segments, scale=problem.scale, soft_cap=None)

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

    Returns:
      out: |difference| / |expected| in norm over everything; row: of each row, the largest; lse:
      the largest difference, where the LSE is large as a share of what is allowed there.

    Raises:
      Wrong: too far.
    """
    length = _length(problem)

    def gather(x: Array) -> np.ndarray:
        rows = [jax.lax.dynamic_slice_in_dim(x, s, length, axis=1)[0] for s in starts]
        return np.asarray(jnp.stack(rows), np.float32)

    out, lse = gather(actual.out), gather(actual.lse)
    right, right_lse = np.asarray(expected.out), np.asarray(expected.lse)
    allowed = np.maximum(1, np.abs(right_lse) * (LSE_RELATIVE / LSE_TOLERANCE))
    found = {
        "out": float(np.linalg.norm(out - right) / np.linalg.norm(right)),
        "row": _worst_row(out, right),
        "lse": float(np.max(np.abs(lse - right_lse) / allowed)),
    }
    tolerances = {"out": OUT_TOLERANCE, "row": ROW_TOLERANCE, "lse": LSE_TOLERANCE}
    for name, tolerance in tolerances.items():
        if not found[name] <= tolerance:  # NaN is not
            raise Wrong(
                f"{who}, {problem}: {name} differs from the float32 reference by "
                f"{found[name]:.2g}, more than {tolerance}"
            )
    return found


def _worst_row(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest |difference| / |expected| of [..., H]; a row of zeros must be matched exactly."""
    difference, norm = (np.linalg.norm(x, axis=-1) for x in (actual - expected, expected))
    none = norm == 0
    ratio = difference / np.where(none, 1, norm)
    return float(np.max(np.where(none & (difference > 0), np.inf, ratio)))


def _length(problem: Problem) -> int:
    return min(QUERIES, problem.queries)


def _count(problem: Problem) -> int:
    return STRETCHES if problem.queries > QUERIES else 1
