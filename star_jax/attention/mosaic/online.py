"""The online softmax of one warpgroup, in registers, and what else both kernels share.

Scores are kept in base 2: p = 2^(c * score - top), where c is the factor of `kernels.Score` and
top is c times the highest score so far, so that each score costs one multiply-add and one ex2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from star_jax.array_typing import Array
from star_jax.attention.kernels import LOG2E, LOWEST

ROWS = 64  # queries of one warpgroup: what one wgmma multiplies
SHARED_MEMORY = 232448  # bytes that a thread block of sm_90 may have
SHARED_OVERHEAD = 4096  # of which the compiler and barriers take at most this

_TILE = plgpu.Layout.WGMMA  # of [rows, columns]
_PER_ROW = plgpu.Layout.WGMMA.reduce(1)  # of [rows]


class Softmax(NamedTuple):
    """Online softmax under way. A query that has seen no key has total = 0."""

    acc: Array  # [ROWS, H] float32, sum of p * v
    top: Array  # [ROWS] float32, c times the highest score
    total: Array  # [ROWS] float32, sum of p


def start(head_dim: int) -> Softmax:
    """No key seen."""
    return Softmax(
        acc=plgpu.layout_cast(jnp.zeros((ROWS, head_dim), jnp.float32), _TILE),
        top=plgpu.layout_cast(jnp.full((ROWS,), LOWEST, jnp.float32), _PER_ROW),
        total=plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), _PER_ROW),
    )


def weigh(state: Softmax, scores: Array, *, c: float) -> tuple[Softmax, Array]:
    """Takes in the scores [ROWS, keys]; returns the state, all but p * v added, and p."""
    top = jnp.maximum(state.top, scores.max(axis=1) * c)
    decay = jnp.exp2(state.top - top)
    p = jnp.exp2(scores * c - _columns(top, scores.shape[1]))
    total = state.total * decay + p.sum(axis=1)
    return Softmax(state.acc * _columns(decay, state.acc.shape[1]), top, total), p


def finish(state: Softmax) -> tuple[Array, Array]:
    """The normalised output [ROWS, H] and the natural LSE [ROWS]."""
    none = state.total == 0
    inverse = jnp.where(none, 0.0, 1.0 / state.total)
    lse = jnp.where(none, -jnp.inf, (state.top + jnp.log2(state.total)) / LOG2E)
    return state.acc * _columns(inverse, state.acc.shape[1]), lse


def indices(keys: int) -> tuple[Array, Array]:
    """Row and column numbers of a tile of scores, [ROWS, keys] int32."""
    shape = (ROWS, keys)
    row = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=_TILE)
    return row, plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=_TILE)


def add_values(
    acc: Array, p: Array, v: Any, *, interpret: bool, meanwhile: Callable[[], None] = lambda: None
) -> Array:
    """acc + p @ v: one wgmma with p in registers and v [keys, H] in shared memory.

    `meanwhile` is called between its start and its end.
    """
    if interpret:  # the interpreter has wgmma with both operands in shared memory only
        meanwhile()
        acc += jnp.dot(p, v[...], preferred_element_type=jnp.float32)
        plgpu.commit_smem()  # wgmma needs no fence between its reads and the next copy
        return acc

    def multiply(ref: Any) -> None:
        plgpu.wgmma(ref, p, v)
        meanwhile()

    return pl.run_state(multiply)(plgpu.ACC.init(acc))


def store(out: Array, smem: Any, gmem: Any) -> None:
    """Writes out [ROWS, H] to gmem [ROWS, H] by halves, through smem [ROWS, H / 2].

    Rows beyond the end of the array behind gmem are left out.
    """
    half = out.shape[1] // 2
    for i in range(2):
        smem[...] = out[:, i * half : (i + 1) * half]
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(smem, gmem.at[:, pl.ds(i * half, half)])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def scratch(
    *, consumers: int, stages: int, keys: int, head_dim: int, dtype: Any
) -> tuple[Any, ...]:
    """Shared memory and barriers: queries and output, K, V, LSE; queries are there; of each
    stage, K and V are there, K and V are done with."""
    tile = swizzled((stages, keys, head_dim), dtype)
    ready = plgpu.Barrier(num_barriers=stages)
    free = plgpu.Barrier(num_arrivals=consumers, num_barriers=stages)
    # A half of the output takes the bytes of the queries, once these are done with.
    q_and_out = plgpu.RefUnion(
        swizzled((consumers, ROWS, head_dim), dtype),
        swizzled((consumers, ROWS, head_dim // 2), jnp.float32),
    )
    lse = plgpu.SMEM((consumers, ROWS), jnp.float32)
    q_ready = plgpu.Barrier(num_barriers=consumers)
    return q_and_out, tile, tile, lse, q_ready, ready, ready, free, free


def swizzled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory in the layout that TMA writes and wgmma reads without bank conflicts."""
    item = jnp.dtype(dtype).itemsize
    swizzle = next(s for s in (128, 64, 32) if shape[-1] * item % s == 0)
    transforms = (plgpu.TilingTransform((8, swizzle // item)), plgpu.SwizzleTransform(swizzle))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def pad_to_8(x: Array, axis: int) -> Array:
    """Pads with zeros to a multiple of 8, the rows that TMA copies at a time; a copy if needed."""
    missing = -x.shape[axis] % 8
    if not missing:
        return x
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)


def cycle(i: Array, count: int) -> Array:
    """The slot of the i-th tile in a ring of `count` buffers."""
    return lax.rem(i, jnp.int32(count))


def drain(total: Array, stages: int, *free: Any) -> None:
    """Waits until the last tiles of `total` are done with: a barrier ends with nobody to await."""

    @pl.loop(jnp.maximum(total - stages, 0), total)
    def _tile(i: Array) -> None:
        for barriers in free:
            plgpu.barrier_wait(barriers.at[cycle(i, stages)])


def _columns(x: Array, count: int) -> Array:
    """[ROWS] -> [ROWS, count], each value along its row."""
    return lax.broadcast_in_dim(x, (x.shape[0], count), [0])


def interpreted(interpret: Any) -> bool:
    """Whether a kernel runs in Pallas's interpreter, on CPU."""
    return interpret is not None and interpret is not False
