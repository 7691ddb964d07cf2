"""Decoding on Hopper: few queries against many keys, which are read once, in Mosaic GPU.

The time goes into reading keys and values, so the work is cut along the keys (split-K): each
thread block takes a part of them, of one key head, with all query heads of its group as the rows
of one tile, so that no key is read twice. A producer warpgroup brings tiles by TMA, consumers of
64 rows each use them, as in `prefill`, without turns: what a consumer computes on a tile takes
less time than bringing the next one. Each block leaves a partial; XLA merges them.

Keys and values are read where the cache has them; only the queries, which are few, are copied.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from star_jax.array_typing import Array, PerRow, Queries
from star_jax.attention.kernels import Score
from star_jax.attention.mosaic import online
from star_jax.attention.mosaic.online import ROWS, Softmax
from star_jax.attention.partial import Partial, merge_stacked
from star_jax.attention.segment import Segment
from star_jax.attention.tiles import split

LEAST_TILES = 4  # of a part: its start and its merge cost as much as about one


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the work is cut up.

    keys: of one tile. stages: tiles of K, and of V, in use or on their way. blocks: how many
    thread blocks to make, if there are keys enough. consumers: warpgroups of a block that compute,
    if there are rows enough.
    """

    keys: int
    stages: int
    blocks: int
    consumers: int = 2

    def __post_init__(self) -> None:
        if self.keys % 64 or not 64 <= self.keys <= 256:
            raise ValueError(f"keys={self.keys} must be 64, 128, 192 or 256")
        if self.stages < 2:
            raise ValueError(f"stages={self.stages} must be at least 2: one in use, one coming")
        if self.blocks < 1:
            raise ValueError(f"blocks={self.blocks} must be at least 1")
        if self.consumers not in (1, 2):
            raise ValueError(f"consumers={self.consumers} must be 1 or 2")

    def shared_memory(self, head_dim: int, consumers: int) -> int:
        """Bytes that a thread block needs, of 16-bit inputs."""
        tiles = consumers * ROWS + 2 * self.stages * self.keys
        return 2 * tiles * head_dim + 4 * consumers * ROWS + online.SHARED_OVERHEAD

    def parts(self, keys: int, others: int) -> int:
        """Into how many parts `keys` keys are cut, where `others` blocks read each part."""
        most = -(-keys // (LEAST_TILES * self.keys))
        return max(1, min(self.blocks // others, most))


# By head dim. Two blocks fit a multiprocessor (of which there are 132) but at 256: one's copies
# go on while the other computes. At 256 two consumers would spill registers. Not timed against
# others yet.
DEFAULTS = {
    64: Tuning(keys=128, stages=2, blocks=264),
    96: Tuning(keys=64, stages=3, blocks=264),
    128: Tuning(keys=64, stages=2, blocks=264),
    256: Tuning(keys=64, stages=2, blocks=132, consumers=1),
}


# Under a jit of its own the kernel is lowered once, and not anew for every layer of a model.
@functools.partial(jax.jit, static_argnames=("score", "tuning", "interpret"))
def attend(
    q: Queries,
    own: Segment,
    first: PerRow | None = None,
    *,
    score: Score,
    tuning: Tuning,
    interpret: Any,
) -> Partial:
    """Attention of few queries to all valid keys; see `dispatch.partial_attention`.

    Where the number of keys is not a multiple of 8, they are copied to pad them.

    Args:
      first: the tile of keys to begin with.
      interpret: Pallas's parameters for running on CPU, in tests; or None.

    Raises:
      ValueError: the tiles do not fit into shared memory.
    """
    batch, queries, heads, head_dim = q.shape
    keys, kv_heads = own.k.shape[1:3]
    group = heads // kv_heads
    # [B, T, N, H] -> [B, K, T * N / K, H]: the rows that see the same keys
    rows = q.reshape(batch, queries, kv_heads, group, head_dim).swapaxes(1, 2)
    rows = online.pad_to_8(rows.reshape(batch, kv_heads, queries * group, head_dim), 2)
    # Clipped out here: what the compiler makes of it in the kernel takes more registers than let
    # two blocks share a multiprocessor.
    length = jnp.full(batch, keys) if own.length is None else jnp.clip(own.length, 0, keys)
    k, v = online.pad_to_8(own.k, 1), online.pad_to_8(own.v, 1)
    padded = rows.shape[2]
    consumers = min(tuning.consumers, -(-padded // ROWS))
    row_blocks = -(-padded // (consumers * ROWS))
    if (needed := tuning.shared_memory(head_dim, consumers)) > online.SHARED_MEMORY:
        raise ValueError(f"{tuning} needs {needed} bytes at {head_dim=}")
    parts = tuning.parts(keys, batch * kv_heads * row_blocks)

    kernel = plgpu.kernel(
        functools.partial(
            _kernel,
            tuning=tuning,
            consumers=consumers,
            parts=parts,
            begins=first is not None,
            score=score,
            interpret=online.interpreted(interpret),
        ),
        out_type=(
            jax.ShapeDtypeStruct((parts, batch, *rows.shape[1:]), jnp.float32),
            jax.ShapeDtypeStruct(
                (parts, batch, kv_heads, row_blocks * consumers * ROWS), jnp.float32
            ),
        ),
        scratch_types=online.scratch(
            consumers=consumers,
            stages=tuning.stages,
            keys=tuning.keys,
            head_dim=head_dim,
            dtype=q.dtype,
        ),
        # The last axes run fastest: what runs at one time reads all heads of the same keys,
        # which lie side by side in memory.
        grid=(batch, parts, kv_heads, row_blocks),
        grid_names=("row", "part", "kv_head", "block"),
        num_threads=consumers + 1,
        thread_name="warpgroup",
        kernel_name="star_decode",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )
    bounds = length if first is None else jnp.concatenate([length, first])
    out, lse = kernel(rows, k, v, bounds.astype(jnp.int32))

    def unpack(x: Array) -> Array:
        """[parts, B, K, T * N / K, ...] -> [parts, B, T, N, ...]"""
        x = x[:, :, :, : queries * group]
        x = x.reshape(parts, batch, kv_heads, queries, group, *x.shape[4:])
        return x.swapaxes(2, 3).reshape(parts, batch, queries, heads, *x.shape[5:])

    return merge_stacked(Partial(unpack(out), unpack(lse)))


def _kernel(
    q_gmem: Any,  # [B, K, R, H], R rows that see the same keys, padded to 8
    k_gmem: Any,  # [B, S, K, H]
    v_gmem: Any,  # [B, S, K, H]
    bounds_gmem: Any,  # [B] int32, lengths; with `begins` first tiles after them, [2B]
    out_gmem: Any,  # [parts, B, K, R, H] float32
    lse_gmem: Any,  # [parts, B, K, R padded to whole blocks] float32
    q_and_out: Any,  # [consumers, ROWS, H] and, over it, [consumers, ROWS, H / 2] float32
    k_smem: Any,  # [stages, keys, H]
    v_smem: Any,  # [stages, keys, H]
    lse_smem: Any,  # [consumers, ROWS] float32
    q_ready: Any,  # barriers: one per consumer
    k_ready: Any,  # one per stage, as the three below: a tile of keys is there
    v_ready: Any,
    k_free: Any,  # all consumers are done with it
    v_free: Any,
    *,
    tuning: Tuning,
    consumers: int,
    parts: int,
    begins: bool,
    score: Score,
    interpret: bool,
) -> None:
    row, part, kv_head = (lax.axis_index(name) for name in ("row", "part", "kv_head"))
    warpgroup = lax.axis_index("warpgroup")
    length = bounds_gmem[row]
    first_tile = bounds_gmem[lax.axis_size("row") + row] if begins else 0
    begin, end = split(part, parts, length, tile=tuning.keys, begin=first_tile)
    total = end - begin
    unmasked = jnp.clip(lax.div(length, jnp.int32(tuning.keys)), begin, end) - begin

    @pl.when(warpgroup == consumers)
    def _produce() -> None:
        @pl.loop(0, total)
        def _tile(i: Array) -> None:
            slot = online.cycle(i, tuning.stages)
            where = (row, pl.ds((begin + i) * tuning.keys, tuning.keys), kv_head)
            pl.when(i >= tuning.stages)(lambda: plgpu.barrier_wait(k_free.at[slot]))
            plgpu.copy_gmem_to_smem(k_gmem.at[where], k_smem.at[slot], k_ready.at[slot])
            pl.when(i >= tuning.stages)(lambda: plgpu.barrier_wait(v_free.at[slot]))
            plgpu.copy_gmem_to_smem(v_gmem.at[where], v_smem.at[slot], v_ready.at[slot])

        online.drain(total, tuning.stages, k_free, v_free)

    @pl.when(warpgroup < consumers)
    def _consume() -> None:
        q_smem, out_smem = (x.at[warpgroup] for x in q_and_out)
        mine = pl.ds((lax.axis_index("block") * consumers + warpgroup) * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(q_gmem.at[row, kv_head, mine], q_smem, q_ready.at[warpgroup])
        plgpu.barrier_wait(q_ready.at[warpgroup])

        def tile(i: Array, state: Softmax, *, masked: bool) -> Softmax:
            slot = online.cycle(i, tuning.stages)
            plgpu.barrier_wait(k_ready.at[slot])

            def multiply(scores: Any) -> Array:
                plgpu.wgmma(scores, q_smem, k_smem.at[slot].transpose((1, 0)))
                return scores[...]

            product = pl.run_scoped(multiply, plgpu.ACC((ROWS, tuning.keys), jnp.float32))
            plgpu.barrier_arrive(k_free.at[slot])
            scores = score.of(product)
            if masked:
                _, key = online.indices(tuning.keys)
                seen = key + (begin + i) * tuning.keys < length
                scores = jnp.where(seen, scores, -jnp.inf)
            state, p = online.weigh(state, scores, c=score.factor)
            plgpu.barrier_wait(v_ready.at[slot])
            p = p.astype(q_gmem.dtype)
            acc = online.add_values(state.acc, p, v_smem.at[slot], interpret=interpret)
            plgpu.barrier_arrive(v_free.at[slot])
            return state._replace(acc=acc)

        state = online.start(q_gmem.shape[-1])
        for masked, first, last in ((False, 0, unmasked), (True, unmasked, total)):
            state = lax.fori_loop(first, last, functools.partial(tile, masked=masked), state)

        out, lse_smem[warpgroup] = online.finish(state)
        online.store(out, out_smem, out_gmem.at[part, row, kv_head, mine])
        target = lse_gmem.at[part, row, kv_head, mine]
        plgpu.copy_smem_to_gmem(lse_smem.at[warpgroup], target)
        plgpu.wait_smem_to_gmem(0)
