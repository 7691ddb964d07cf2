"""Many queries over the keys [prefix | k], in one launch and one online softmax.

Each program takes a tile of queries of one head through the keys that they see: the tiles of
the prefix, then those of `k` up to the diagonal. Only tiles that some of these queries do not
see whole are masked: the last one of the prefix, those on the diagonal, and the last of `k`. With a
window, or where `k` begins later, tiles before the first one seen are left out, and those at
that edge are masked, too.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from star_jax.array_typing import Array, Queries
from star_jax.attention.kernels import Score, per_row
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment
from star_jax.attention.tiles import Bounds, first_seen, is_from_first, keys_seen, visited
from star_jax.attention.triton import softmax


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes of a tile, and how it is compiled."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int  # tiles of keys on the way: one less is loaded ahead

    def __post_init__(self) -> None:
        softmax.check_tile(self.queries, self.keys, self.num_warps, self.num_stages)


# By head dim: the largest tiles that compile without a register spilled for every GPU that the
# kernels are for, in the 99 KB of shared memory that Ada has. tests/test_aot_triton.py checks it.
DEFAULTS = {
    64: Tuning(queries=128, keys=64, num_warps=4, num_stages=2),
    96: Tuning(queries=128, keys=64, num_warps=8, num_stages=2),
    128: Tuning(queries=128, keys=64, num_warps=8, num_stages=2),
    256: Tuning(queries=64, keys=32, num_warps=8, num_stages=2),
}
# The same for a window, keys that begin later, or a soft cap: at 64 they take more registers.
WIDER = DEFAULTS | {64: Tuning(queries=128, keys=64, num_warps=8, num_stages=2)}


def tuning_for(own: Segment, score: Score, head_dim: int) -> Tuning:
    """The default tile for what is asked of these keys."""
    plain = own.window is None and own.begin is None and score.soft_cap is None
    return (DEFAULTS if plain else WIDER)[head_dim]


# Under a jit of its own the kernel is lowered once, and not anew for every layer of a model.
@functools.partial(jax.jit, static_argnames=("score", "tuning", "interpret"))
def attend(
    q: Queries,
    prefix: Segment | None,
    own: Segment,
    *,
    score: Score,
    tuning: Tuning,
    interpret: bool,
) -> Partial:
    """Attention of many queries; see `dispatch.partial_attention`."""
    batch, queries, heads, head_dim = q.shape
    group = heads // own.k.shape[2]
    width = softmax.padded(head_dim)
    bounds = Bounds(
        offset=per_row(own.offset, 0, batch),
        length=per_row(own.length, own.keys, batch),
        prefix=per_row(prefix.length, prefix.keys, batch) if prefix else per_row(None, 0, batch),
    )
    if own.begin is not None:
        bounds = bounds._replace(begin=per_row(own.begin, 0, batch))
    numbers = [x for x in bounds if not isinstance(x, int)]  # without `begin` if there is none
    segments = [own.k, own.v]
    if prefix is not None:
        segments += [prefix.k, prefix.v]

    # Programs start in the order of the grid, its first axis fastest: the heads of a group run
    # side by side, and find their keys in L2.
    grid = (heads, batch, pl.cdiv(queries, tuning.queries))
    row = pl.BlockSpec((None,), lambda n, b, i: (b,))
    head = pl.BlockSpec((None, queries, None, width), lambda n, b, i: (b, 0, n, 0))

    def kv_head(x: Array) -> pl.BlockSpec:
        block = (None, x.shape[1], None, width)
        return pl.BlockSpec(block, lambda n, b, i: (b, 0, jax.lax.div(n, jnp.int32(group)), 0))

    out, lse = pl.pallas_call(
        functools.partial(
            _kernel,
            causal=own.causal,
            window=own.window,
            score=score,
            head_dim=head_dim,
            tuning=tuning,
            begins=own.begin is not None,
        ),
        grid=grid,
        in_specs=[*[row] * len(numbers), head, *map(kv_head, segments)],
        out_specs=[head, pl.BlockSpec((None, queries, None), lambda n, b, i: (b, 0, n))],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(q.shape[:3], jnp.float32),
        ],
        compiler_params=plgpu.CompilerParams(
            num_warps=tuning.num_warps, num_stages=tuning.num_stages
        ),
        interpret=interpret,
        name="star_prefill",
    )(*numbers, q, *segments)
    return Partial(out, lse)


def _kernel(
    offset_ref: Any,  # []
    length_ref: Any,  # []
    prefix_length_ref: Any,  # []
    # With `begins` the first key []; q [T, W], k [S, W] and v [S, W], where W is the head dim,
    # padded to a power of two; with a prefix, its k [P, W] and v [P, W]; out [T, W], lse [T].
    *refs: Any,
    causal: bool,
    window: int | None,
    score: Score,
    head_dim: int,
    tuning: Tuning,
    begins: bool,
) -> None:
    q_ref, k_ref, v_ref, *prefix_refs, out_ref, lse_ref = refs[begins:]
    count, width = q_ref.shape
    # Under a causal mask the last queries have the most work. They start first.
    tile = pl.num_programs(2) - 1 - pl.program_id(2)
    first = tile * tuning.queries
    query = first + jnp.arange(tuning.queries)
    last = jnp.minimum(first + tuning.queries, count) - 1
    prefix = prefix_refs[0].shape[0] if prefix_refs else 0
    bounds = Bounds(
        offset=offset_ref[...],
        length=jnp.clip(length_ref[...], 0, k_ref.shape[0]),
        prefix=jnp.clip(prefix_length_ref[...], 0, prefix),
        begin=refs[0][...] if begins else 0,
    )
    tiles = visited(first, last, bounds, tile=tuning.keys, causal=causal, window=window)

    q = softmax.load(q_ref, first, tuning.queries, end=count, head_dim=head_dim)
    visit = functools.partial(softmax.visit, q=q, tile=tuning.keys, head_dim=head_dim, score=score)
    s = softmax.start(tuning.queries, width)
    if prefix_refs:
        segment = functools.partial(
            visit, k_ref=prefix_refs[0], v_ref=prefix_refs[1], length=bounds.prefix
        )
        s = segment(s, 0, tiles.prefix_whole)
        s = segment(s, tiles.prefix_whole, tiles.prefix_end, seen=bounds.prefix)
    seen = keys_seen(query, bounds, causal=True) if causal else bounds.length
    segment = functools.partial(visit, k_ref=k_ref, v_ref=v_ref, length=bounds.length)
    begin = None
    if not is_from_first(bounds, window=window):
        begin = first_seen(first if window is None else query, bounds, window=window)
        s = segment(s, tiles.first, tiles.clear, seen=seen, begin=begin)
    s = segment(s, tiles.clear, tiles.whole)
    s = segment(s, tiles.whole, tiles.end, seen=seen, begin=begin)

    out, lse = softmax.finish(s)
    valid = query < count
    lanes = jnp.arange(width) < head_dim
    rows = pl.ds(first, tuning.queries)
    plgpu.store(out_ref.at[rows, :], out, mask=valid[:, None] & lanes[None, :])
    plgpu.store(lse_ref.at[rows], lse, mask=valid)
