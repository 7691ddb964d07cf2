"""Few queries over many keys, all of which they see: the keys are split over the GPU.

The query heads that share a key/value head are rows of one tile, T * G of them, so that keys
and values are read once for all, and where they lie. Each split makes a partial of its share
of the valid keys, and the partials merge like any others.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from star_jax.array_typing import Array, PerRow, Queries
from star_jax.attention.kernels import Score, per_row
from star_jax.attention.partial import Partial, merge_stacked
from star_jax.attention.segment import Segment
from star_jax.attention.tiles import split
from star_jax.attention.triton import eight_bits, softmax


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes of a tile, how it is compiled, and how the keys are split."""

    rows: int  # of queries, at most
    keys: int
    num_warps: int
    num_stages: int  # tiles of keys on the way: one less is loaded ahead
    programs: int = 256  # as many as fill a GPU: two for each multiprocessor of the largest
    keys_per_split: int = 256  # at least, lest partials cost more than the keys they stand for
    splits: int = 64  # at most

    def __post_init__(self) -> None:
        softmax.check_tile(self.rows, self.keys, self.num_warps, self.num_stages)
        if min(self.programs, self.keys_per_split, self.splits) < 1:
            raise ValueError(f"{self} must have sizes of at least 1")


# By head dim, for a decode step and for a query of many tokens. The former is bound by memory:
# tiles are small and more of them on their way. The latter is like prefill.
FEW_ROWS = 32
FEW = {
    64: Tuning(rows=FEW_ROWS, keys=64, num_warps=4, num_stages=3),
    96: Tuning(rows=FEW_ROWS, keys=64, num_warps=4, num_stages=3),
    128: Tuning(rows=FEW_ROWS, keys=64, num_warps=4, num_stages=3),
    256: Tuning(rows=FEW_ROWS, keys=32, num_warps=4, num_stages=3),
}
MANY = {
    64: Tuning(rows=128, keys=64, num_warps=4, num_stages=2),
    96: Tuning(rows=128, keys=64, num_warps=8, num_stages=2),
    128: Tuning(rows=128, keys=64, num_warps=8, num_stages=2),
    256: Tuning(rows=64, keys=32, num_warps=8, num_stages=2),
}
# The same where they are in 8 bits: a tile takes more registers, and fewer bytes.
FEW_IN_8_BITS = {
    64: Tuning(rows=FEW_ROWS, keys=64, num_warps=4, num_stages=3),
    96: Tuning(rows=FEW_ROWS, keys=64, num_warps=8, num_stages=3),
    128: Tuning(rows=FEW_ROWS, keys=64, num_warps=8, num_stages=3),
    256: Tuning(rows=16, keys=32, num_warps=4, num_stages=3),
}
MANY_IN_8_BITS = {
    64: Tuning(rows=64, keys=32, num_warps=8, num_stages=2),
    96: Tuning(rows=64, keys=64, num_warps=8, num_stages=2),
    128: Tuning(rows=64, keys=64, num_warps=8, num_stages=2),
    256: Tuning(rows=16, keys=32, num_warps=4, num_stages=2),
}


def tuning_for(own: Segment, rows: int, head_dim: int) -> Tuning:
    """The default tile for so many rows over these keys."""
    few, many = (FEW, MANY) if own.is_plain else (FEW_IN_8_BITS, MANY_IN_8_BITS)
    return (few if rows <= FEW_ROWS else many)[head_dim]


# Under a jit of its own the kernel is lowered once, and not anew for every layer of a model.
@functools.partial(jax.jit, static_argnames=("score", "tuning", "interpret"))
def attend(
    q: Queries,
    own: Segment,
    first: PerRow | None = None,
    *,
    score: Score,
    tuning: Tuning,
    interpret: bool,
) -> Partial:
    """Attention of few queries to all valid keys; see `dispatch.partial_attention`.

    first: the tile of keys to begin with.
    """
    batch, queries, heads, head_dim = q.shape
    keys, kv_heads = own.k.shape[1:3]
    rows = queries * (heads // kv_heads)
    width = softmax.padded(head_dim)
    tile = min(max(pl.next_power_of_2(rows), softmax.MIN_TILE), tuning.rows)
    tiles = pl.cdiv(rows, tile)
    splits = count_splits(batch * kv_heads * tiles, keys, tuning)

    # The first axis of the grid is the fastest. Tiles of rows that read the same keys run side
    # by side, and so do the heads, whose keys lie side by side.
    grid = (tiles, kv_heads, splits, batch)
    row = pl.BlockSpec((None,), lambda i, n, s, b: (b,))
    begins = [] if first is None else [first]
    all_heads = (queries, heads, width)
    arrays = [eight_bits.bits(own.k), eight_bits.bits(own.v), *(own.scales or ())]
    out, lse = pl.pallas_call(
        functools.partial(
            _kernel,
            score=score,
            head_dim=head_dim,
            tile=tile,
            keys=tuning.keys,
            splits=splits,
            begins=len(begins),
        ),
        grid=grid,
        in_specs=[
            *[row] * (1 + len(begins)),
            pl.BlockSpec((None, *all_heads), lambda i, n, s, b: (b, 0, 0, 0)),
            *(_of_head(x, width) for x in arrays),
        ],
        out_specs=[
            pl.BlockSpec((None, None, *all_heads), lambda i, n, s, b: (s, b, 0, 0, 0)),
            pl.BlockSpec((None, None, queries, heads), lambda i, n, s, b: (s, b, 0, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((splits, *q.shape), jnp.float32),
            jax.ShapeDtypeStruct((splits, *q.shape[:3]), jnp.float32),
        ],
        compiler_params=plgpu.CompilerParams(
            num_warps=tuning.num_warps, num_stages=tuning.num_stages
        ),
        interpret=interpret,
        name="star_decode",
    )(per_row(own.length, keys, batch), *begins, q, *arrays)
    return merge_stacked(Partial(out, lse))


def _of_head(x: Array, width: int) -> pl.BlockSpec:
    """One key head of an array [B, S, K, H], or [B, S, K], for a program."""
    block = (None, x.shape[1], None)
    if x.ndim == 3:
        return pl.BlockSpec(block, lambda i, n, s, b: (b, 0, n))
    return pl.BlockSpec((*block, width), lambda i, n, s, b: (b, 0, n, 0))


def count_splits(programs: int, keys: int, tuning: Tuning) -> int:
    """How many splits let `programs` of one split each fill a GPU."""
    wanted = pl.cdiv(tuning.programs, programs)
    return max(1, min(wanted, keys // tuning.keys_per_split, tuning.splits))


def _kernel(
    length_ref: Any,  # []
    # With `begins` the first tile []; q [T, N, W], where W is the head dim, padded to a power of
    # two; k [S, W] and v [S, W]; of those in 8 bits their scales, [S] each, and those of the keys'
    # features [groups, W]; out [T, N, W], lse [T, N].
    *refs: Any,
    score: Score,
    head_dim: int,
    tile: int,
    keys: int,
    splits: int,
    begins: int,
) -> None:
    q_ref, k_ref, v_ref, *scales, out_ref, lse_ref = refs[begins:]
    queries, heads, width = q_ref.shape
    group = heads // pl.num_programs(1)
    row = pl.program_id(0) * tile + jnp.arange(tile)
    valid = row < queries * group
    query = jax.lax.div(row, jnp.int32(group))
    head = pl.program_id(1) * group + jax.lax.rem(row, jnp.int32(group))
    lane = jnp.arange(width)
    where = (query[:, None], head[:, None], lane[None, :])
    mask = valid[:, None] & (lane < head_dim)[None, :]
    q = plgpu.load(q_ref.at[where], mask=mask, other=0.0)  # [tile, W]

    length = jnp.clip(length_ref[...], 0, k_ref.shape[0])
    begin = refs[0][...] if begins else 0
    first, end = split(pl.program_id(2), splits, length, tile=keys, begin=begin)
    whole = jnp.clip(jax.lax.div(length, jnp.int32(keys)), first, end)
    visit = functools.partial(
        softmax.visit,
        q=q,
        k_ref=k_ref,
        v_ref=v_ref,
        scales=eight_bits.Scales.of(scales, k_ref) if scales else None,
        length=length,
        tile=keys,
        head_dim=head_dim,
        score=score,
    )
    s = softmax.start(tile, width)
    s = visit(s, first, whole)
    s = visit(s, whole, end, seen=length)

    out, lse = softmax.finish(s)
    plgpu.store(out_ref.at[where], out, mask=mask)
    plgpu.store(lse_ref.at[query, head], lse, mask=valid)
