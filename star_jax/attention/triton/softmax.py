"""Online softmax over tiles of keys, as both kernels run it.

Exponentials are powers of two, for which GPUs have an instruction. `kernels.Score` says how
products become scores, and that they are compared before the last factor.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from star_jax.array_typing import Array
from star_jax.attention.kernels import LOG2E, LOWEST, Score
from star_jax.attention.triton import eight_bits

MIN_TILE = 16  # of a matmul, in each of its sizes


class Softmax(NamedTuple):
    """Online softmax under way, in float32."""

    acc: Array  # [rows, W], sum of exp2(factor * score - top) * v
    top: Array  # [rows], highest factor * score
    total: Array  # [rows], sum of exp2(factor * score - top)


def start(rows: int, width: int) -> Softmax:
    """No keys yet."""
    return Softmax(
        acc=jnp.zeros((rows, width), jnp.float32),
        top=jnp.full((rows,), LOWEST, jnp.float32),
        total=jnp.zeros((rows,), jnp.float32),
    )


def visit(
    s: Softmax,
    first: Array | int,
    last: Array,
    *,
    q: Array,  # [rows, W]
    k_ref: Any,  # [S, W]
    v_ref: Any,  # [S, W]
    scales: eight_bits.Scales | None = None,
    seen: Array | None = None,
    begin: Array | None = None,
    length: Array,
    tile: int,
    head_dim: int,
    score: Score,
) -> Softmax:
    """Adds the tiles first, ..., last - 1 of keys.

    Row i sees the first seen[i] keys, or all rows the first `seen`, never more than `length`; with
    `begin` those of them from begin[i], or `begin`, on. Without `seen`, all rows see all keys of
    these tiles, and nothing is masked.
    """

    def step(index: Array, s: Softmax) -> Softmax:
        key = index * tile
        end = None if seen is None else length
        k = load(k_ref, key, tile, end=end, head_dim=head_dim)
        v = load(v_ref, key, tile, end=end, head_dim=head_dim)
        asked, of_tile = q, None
        if scales is not None:
            asked, k = scales.of_features(q, k, key, head_dim=head_dim)
            v = scales.wider(v, q.dtype)
            of_tile = scales.of_tile(key, tile, end=end)
        mask = None
        if seen is not None:
            at = (key + jnp.arange(tile))[None, :]
            mask = at < (seen[:, None] if seen.ndim else seen)
            if begin is not None:
                mask &= at >= (begin[:, None] if begin.ndim else begin)
        return _update(s, asked, k, v, mask, of_tile, score=score)

    return lax.fori_loop(first, last, step, s)


def finish(s: Softmax) -> tuple[Array, Array]:
    """out [rows, W] and lse [rows], a natural logarithm; (0, -inf) for a row that saw no key."""
    none = s.total == 0
    total = jnp.where(none, 1.0, s.total)
    lse = jnp.where(none, -jnp.inf, s.top / LOG2E + jnp.log(total))
    return s.acc / total[:, None], lse


def load(ref: Any, first: Array, rows: int, *, end: Array | int | None, head_dim: int) -> Array:
    """Rows first, first + 1, ... of ref [S, W], with zeros from row `end` on.

    Lanes behind the head dim are zeros too. What is masked is not read: it may be NaN, and the
    weight 0 would not help then.
    """
    width = ref.shape[1]
    mask = None
    if end is not None:
        mask = (first + jnp.arange(rows) < end)[:, None]
    if width != head_dim:
        lanes = (jnp.arange(width) < head_dim)[None, :]
        mask = lanes if mask is None else mask & lanes
    tile = ref.at[pl.ds(first, rows), :]
    if mask is None:
        return plgpu.load(tile)
    return plgpu.load(tile, mask=jnp.broadcast_to(mask, (rows, width)), other=0.0)


def padded(head_dim: int) -> int:
    """Lanes of a tile, of which Triton wants a power of two. In memory nothing is padded."""
    return pl.next_power_of_2(head_dim)


def check_tile(rows: int, keys: int, num_warps: int, num_stages: int) -> None:
    """Raises ValueError for sizes that Triton does not compile."""
    for size in (rows, keys):
        if size < MIN_TILE or size & (size - 1):
            raise ValueError(f"tile of {rows=}, {keys=}: powers of two from {MIN_TILE} on")
    if num_warps not in (1, 2, 4, 8, 16) or num_stages < 1:
        raise ValueError(f"{num_warps=} must be a power of two up to 16, {num_stages=} positive")


def _update(
    s: Softmax,
    q: Array,
    k: Array,
    v: Array,
    seen: Array | None,
    scales: tuple[Array, Array] | None = None,
    *,
    score: Score,
) -> Softmax:
    """Adds one tile of keys; seen [rows, keys], or [1, keys] if all rows see the same.

    scales: what the product with each key, and each value, is multiplied with: [keys] each.
    """
    product = _dot(q, k, contract=1)  # [rows, keys]
    if scales is not None:
        product *= scales[0][None, :]
    scores = score.of(product)
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    top = jnp.maximum(s.top, score.factor * scores.max(axis=1))
    weights = jnp.exp2(score.factor * scores - top[:, None])
    decay = jnp.exp2(s.top - top)
    of_values = weights if scales is None else weights * scales[1][None, :]
    return Softmax(
        acc=decay[:, None] * s.acc + _dot(of_values.astype(v.dtype), v, contract=0),
        top=top,
        total=decay * s.total + weights.sum(axis=1),
    )


def _dot(a: Array, b: Array, *, contract: int) -> Array:
    """a [M, L] times b, whose axis `contract` is L, in float32."""
    dims = (((1,), (contract,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
