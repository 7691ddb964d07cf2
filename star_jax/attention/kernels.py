"""What the GPU kernels of both backends, and what is asked of cuDNN, have in common."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, PerRow, Queries
from star_jax.attention import compressed
from star_jax.attention import device as device_lib
from star_jax.attention.segment import Segment

DTYPES = ("bfloat16", "float16")

# Up to this many rows (a query token for each head of a group), keys are split over the GPU:
# there are too few tiles of queries to fill it.
DECODE_ROWS = 1024

# Exponentials are powers of two, for which GPUs have an instruction.
LOG2E = math.log2(math.e)
# The highest score of a query that has seen no key. Finite, so that a hidden key, whose score
# is -inf, weighs 2^(-inf - LOWEST) = 0: with -inf that would be NaN.
LOWEST = -1e30


class Score(NamedTuple):
    """How a product of query and key becomes a score.

    Products are compared before they are multiplied with the last factor, which saves a pass over
    them: it must be above 0.
    """

    scale: float
    soft_cap: float | None

    @property
    def factor(self) -> float:
        """What is still to be multiplied with, for scores in base 2."""
        return (self.scale if self.soft_cap is None else self.soft_cap) * LOG2E

    def of(self, product: Array) -> Array:
        """The score, apart from `factor`."""
        return product if self.soft_cap is None else _tanh(product, self.scale / self.soft_cap)


def _tanh(x: Array, scale: float) -> Array:
    """tanh(scale * x) = 1 - 2 / (1 + e^(2 * scale * x)), off by 1e-6 at most.

    GPUs have an instruction for tanh, which is off by as much as 5e-4: a cap multiplies that. They
    have one for the reciprocal of a square root, too, but not for a division.
    """
    root = jax.lax.rsqrt(1 + jnp.exp2(x * (2 * LOG2E * scale)))
    return 1 - 2 * (root * root)


def too_old(device: jax.Device, *, name: str) -> str:
    """Why `name` cannot run on this device, if that is no NVIDIA GPU from sm_80 on; or empty."""
    found = device_lib.capability(device)
    if found is None or found < (8, 0):
        return f"{name} needs an NVIDIA GPU from sm_80 on; this is {device_lib.name(device)}"
    return ""


def counts_in_64_bits(name: str) -> str:
    """Why our kernels, whose indices have 32 bits, do not run in this process; or empty."""
    counts = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
    return f"{name} has no kernel for JAX_ENABLE_X64" if counts else ""


def prefix_and_own(
    q: Queries, segments: Sequence[Segment], *, scale: float, name: str
) -> tuple[Segment | None, Segment]:
    """The segments that our kernels serve: maybe a prefix that all queries see, and the last one.

    Raises:
      NotImplementedError: there are others, or several dtypes, or a scale that is not positive.
    """
    *before, own = segments
    if len(before) > 1 or any(s.causal for s in before):
        kinds = ", ".join("causal" if s.causal else "not causal" for s in segments)
        raise NotImplementedError(
            f"{name} serves one segment, or one that is not causal before it; not {kinds}, as xla "
            "does"
        )
    for s in before:
        if s.window is not None or s.begin is not None:
            raise NotImplementedError(
                f"{name} has no window (window={s.window}) and no first key (begin) in a segment "
                "before the last one; xla has"
            )
    for s in segments:
        if s.dtypes != {q.dtype}:
            names = " and ".join(sorted(map(str, s.dtypes)))
            raise NotImplementedError(f"{name} with q of {q.dtype}, keys of {names}: one dtype")
    if not all(s.is_plain for s in segments) and (before or own.is_ordered):
        raise NotImplementedError(
            f"{name} serves keys in 8 bits as one segment that all queries see; xla serves others"
        )
    if scale <= 0:  # scores are compared before they are scaled
        raise NotImplementedError(f"{scale=} must be positive")
    return (before[0] if before else None), _without_window_of_one(q, own)


def _without_window_of_one(q: Queries, own: Segment) -> Segment:
    """The same segment, with the window of a query that is alone said as a first key."""
    if own.window is None or own.causal or q.shape[1] > 1:
        return own
    batch = q.shape[0]
    begin = per_row(own.offset, 0, batch) - (own.window - 1)
    begin = jnp.maximum(begin, jnp.maximum(per_row(own.begin, 0, batch), 0))
    return dataclasses.replace(own, offset=None, window=None, begin=begin)


def rows(q: Queries, own: Segment) -> int:
    """How many rows read the same keys: queries times the heads of a group."""
    return q.shape[1] * (q.shape[2] // own.k.shape[2])


def without_head(own: Segment, tile: int) -> tuple[PerRow | None, Segment | None]:
    """The first tile [B] of a segment that is seen whole, and the keys before it as a segment.

    The kernels for few queries begin at a tile. What is seen of the one before is less than a tile,
    and copied out. Where the segment is seen from its first key on, there is neither.
    """
    if own.begin is None:
        return None, None
    batch, keys = own.k.shape[:2]
    begin, size = own.begin.astype(jnp.int32), min(tile, keys)
    length = per_row(own.length, keys, batch)
    # The last tile of the keys may be a short one.
    start = jnp.minimum(begin // tile * tile, keys - size)
    first = -(-begin // tile)
    end = jnp.minimum(first * tile, length)
    head = Segment(*_cut(own, start, size), length=end - start, begin=begin - start)
    return first, head


def _cut(own: Segment, start: PerRow, size: int) -> tuple[Array, Array]:
    """`size` keys and values of each row, from another one on in each."""
    if own.scales is not None:
        return compressed.take(own.k, own.v, own.scales, start[:, None] + jnp.arange(size))
    cut = jax.vmap(lambda x, at: jax.lax.dynamic_slice_in_dim(x, at, size))
    return cut(own.k, start), cut(own.v, start)


def is_few(q: Queries, prefix: Segment | None, own: Segment) -> bool:
    """Whether keys are to be split over the GPU, which takes queries that all see all of them."""
    if not own.is_plain:  # there is no other kernel for them
        return True
    return prefix is None and not own.is_ordered and rows(q, own) <= DECODE_ROWS


def per_row(values: PerRow | None, default: int, batch: int) -> PerRow:
    """int32 [B]; the default as a constant of the program, so that nothing runs to make it."""
    if values is None:
        return jnp.asarray(np.full(batch, default, np.int32))
    return values.astype(jnp.int32)
