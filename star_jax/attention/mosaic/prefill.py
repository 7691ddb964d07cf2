"""Prefill on Hopper: one launch for [anchor | causal block], in Mosaic GPU.

A thread block takes the queries of one head that its consumers, warpgroups with 64 queries each,
hold. Another warpgroup, the producer, brings tiles of K and V into a ring of buffers in shared
memory by TMA; the consumers compute scores and outputs from them by wgmma. Two consumers take
turns: while one multiplies, the other exponentiates, so that neither the tensor cores nor the
exponential units wait.

The tiles come in an order that separates those that need a mask from those that do not:

    prefix, whole | keys, whole | prefix, ragged end | keys, diagonal and ragged end
    `------ no mask ----------'   `----------------- mask -------------------------'

A consumer does not know where an unmasked tile comes from, so that one loop serves both segments.
With a window, or where the keys begin later, the tiles at that edge come before all of these, and
need a mask, too; those before the edge do not come.

The division of work and the ping-pong are those of FlashAttention-3 (Shah et al., arXiv
2407.08608, section 3.1); the two segments are ours.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from star_jax.array_typing import Array, Queries
from star_jax.attention.kernels import Score
from star_jax.attention.mosaic import online
from star_jax.attention.mosaic.online import ROWS, Softmax
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment
from star_jax.attention.tiles import Bounds, Tiles, first_seen, is_from_first, keys_seen, visited

NO_OFFSET = 2**30  # with it, a causal mask hides nothing


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the work is cut up.

    keys: of one tile. stages: tiles of K, and of V, in use or on their way. consumers: warpgroups
    that compute; two take turns, one may use more registers.
    """

    keys: int
    stages: int
    consumers: int = 2

    def __post_init__(self) -> None:
        if self.keys % 64 or not 64 <= self.keys <= 256:
            raise ValueError(f"keys={self.keys} must be 64, 128, 192 or 256")
        if self.stages < 2:
            raise ValueError(f"stages={self.stages} must be at least 2: one in use, one coming")
        if self.consumers not in (1, 2):
            raise ValueError(f"consumers={self.consumers} must be 1 or 2")

    @property
    def queries(self) -> int:
        """What one thread block takes."""
        return self.consumers * ROWS

    def shared_memory(self, head_dim: int) -> int:
        """Bytes that a thread block needs, of 16-bit inputs."""
        tiles = self.queries + 2 * self.stages * self.keys
        return 2 * tiles * head_dim + 4 * self.queries + online.SHARED_OVERHEAD


# By head dim: the largest that spill no registers, and as many stages as fit. With two consumers a
# thread has 168 registers where libnvJitLink assembles, which ignores setmaxnreg (ptxas heeds it;
# see `assembler`); the output alone takes 128 at 256. Not timed against others yet.
DEFAULTS = {
    64: Tuning(keys=128, stages=4),
    96: Tuning(keys=128, stages=3),
    128: Tuning(keys=128, stages=2),
    256: Tuning(keys=64, stages=2, consumers=1),
}


# Under a jit of its own the kernel is lowered once, and not anew for every layer of a model.
@functools.partial(jax.jit, static_argnames=("score", "tuning", "interpret"))
def attend(
    q: Queries,
    prefix: Segment | None,
    own: Segment,
    *,
    score: Score,
    tuning: Tuning,
    interpret: Any,
) -> Partial:
    """Attention of many queries; see `dispatch.partial_attention`.

    Where the number of queries or of keys is not a multiple of 8, they are copied to pad them.

    Args:
      interpret: Pallas's parameters for running on CPU, in tests; or None.

    Raises:
      ValueError: the tiles do not fit into shared memory.
    """
    batch, queries, heads, head_dim = q.shape
    kv_heads = own.k.shape[2]
    block = tuning.queries
    if tuning.shared_memory(head_dim) > online.SHARED_MEMORY:
        raise ValueError(f"{tuning} needs {tuning.shared_memory(head_dim)} bytes at {head_dim=}")

    if prefix is None:
        prefix = Segment(own.k, own.v, length=jnp.zeros(batch, int))
    bounds = Bounds(
        offset=jnp.zeros(batch, int) if own.offset is None else own.offset,
        length=jnp.full(batch, own.keys) if own.length is None else own.length,
        prefix=jnp.full(batch, prefix.keys) if prefix.length is None else prefix.length,
        begin=0 if own.begin is None else own.begin,
    )
    arrays = (q, own.k, own.v, prefix.k, prefix.v)
    q, k, v, prefix_k, prefix_v = (online.pad_to_8(x, 1) for x in arrays)
    padded = q.shape[1]
    blocks = -(-padded // block)
    kernel = plgpu.kernel(
        functools.partial(
            _kernel,
            tuning=tuning,
            causal=own.causal,
            window=own.window,
            queries=queries,
            keys=own.keys,
            prefix_keys=prefix.keys,
            blocks=blocks,
            group=heads // kv_heads,
            begins=own.begin is not None,
            score=score,
            interpret=online.interpreted(interpret),
        ),
        out_type=(
            jax.ShapeDtypeStruct((batch, padded, heads, head_dim), jnp.float32),
            jax.ShapeDtypeStruct((batch, heads, blocks * block), jnp.float32),
        ),
        scratch_types=(
            *online.scratch(
                consumers=tuning.consumers,
                stages=tuning.stages,
                keys=tuning.keys,
                head_dim=head_dim,
                dtype=q.dtype,
            ),
            plgpu.Barrier(num_arrivals=tuning.consumers),
        ),
        # The last axis runs fastest: the heads of a group read the same keys, one soon after
        # the other, and all blocks of one key head come before the next one's.
        grid=(batch, kv_heads, blocks, heads // kv_heads),
        grid_names=("row", "kv_head", "block", "member"),
        num_threads=tuning.consumers + 1,
        thread_name="warpgroup",
        kernel_name="star_prefill",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )
    numbers = bounds[:3] if own.begin is None else bounds
    out, lse = kernel(q, k, v, prefix_k, prefix_v, jnp.stack(numbers, axis=1).astype(jnp.int32))
    return Partial(out[:, :queries], lse[:, :, :queries].transpose(0, 2, 1))


def _kernel(
    q_gmem: Any,  # [B, T, N, H], T padded to 8 as S and S' are
    k_gmem: Any,  # [B, S, K, H]
    v_gmem: Any,  # [B, S, K, H]
    prefix_k_gmem: Any,  # [B, S', K, H]
    prefix_v_gmem: Any,  # [B, S', K, H]
    bounds_gmem: Any,  # [B, 4] int32, see `Bounds`; [B, 3] if not `begins`
    out_gmem: Any,  # [B, T, N, H] float32
    lse_gmem: Any,  # [B, N, T padded to whole blocks] float32
    q_and_out: Any,  # [consumers, ROWS, H] and, over it, [consumers, ROWS, H / 2] float32
    k_smem: Any,  # [stages, keys, H]
    v_smem: Any,  # [stages, keys, H]
    lse_smem: Any,  # [consumers, ROWS] float32
    q_ready: Any,  # barriers: one per consumer
    k_ready: Any,  # one per stage, as the three below: a tile of keys is there
    v_ready: Any,
    k_free: Any,  # all consumers are done with it
    v_free: Any,
    turn: Any,  # all consumers have come to the end of a turn
    *,
    tuning: Tuning,
    causal: bool,
    window: int | None,
    queries: int,
    keys: int,
    prefix_keys: int,
    blocks: int,
    group: int,
    begins: bool,
    score: Score,
    interpret: bool,
) -> None:
    row, kv_head = lax.axis_index("row"), lax.axis_index("kv_head")
    warpgroup = lax.axis_index("warpgroup")
    # The last queries see the most keys; what takes longest starts first.
    first = (blocks - 1 - lax.axis_index("block")) * tuning.queries
    bounds = Bounds(
        offset=bounds_gmem[row, 0],
        length=jnp.clip(bounds_gmem[row, 1], 0, keys),
        prefix=jnp.clip(bounds_gmem[row, 2], 0, prefix_keys),
        begin=bounds_gmem[row, 3] if begins else 0,
    )
    last = jnp.minimum(first + tuning.queries, queries) - 1
    plan = visited(first, last, bounds, tile=tuning.keys, causal=causal, window=window)
    edge = plan.clear - plan.first
    unmasked = edge + plan.prefix_whole + plan.whole - plan.clear
    total = plan.prefix_end + plan.end - plan.first

    @pl.when(warpgroup == tuning.consumers)
    def _produce() -> None:
        if tuning.consumers == 2:  # a block of 384 threads starts with 168 each
            plgpu.set_max_registers(40, action="decrease")

        @pl.loop(0, total)
        def _tile(i: Array) -> None:
            slot = online.cycle(i, tuning.stages)
            in_prefix, at = locate(i, plan)
            where = (row, pl.ds(at * tuning.keys, tuning.keys), kv_head)

            def bring(k_from: Any, v_from: Any) -> None:
                pl.when(i >= tuning.stages)(lambda: plgpu.barrier_wait(k_free.at[slot]))
                plgpu.copy_gmem_to_smem(k_from.at[where], k_smem.at[slot], k_ready.at[slot])
                pl.when(i >= tuning.stages)(lambda: plgpu.barrier_wait(v_free.at[slot]))
                plgpu.copy_gmem_to_smem(v_from.at[where], v_smem.at[slot], v_ready.at[slot])

            pl.when(in_prefix)(lambda: bring(prefix_k_gmem, prefix_v_gmem))
            pl.when(jnp.logical_not(in_prefix))(lambda: bring(k_gmem, v_gmem))

        online.drain(total, tuning.stages, k_free, v_free)

    @pl.when(warpgroup < tuning.consumers)
    def _consume() -> None:
        if tuning.consumers == 2:
            plgpu.set_max_registers(232, action="increase")
        q_smem, out_smem = (x.at[warpgroup] for x in q_and_out)
        head = kv_head * group + lax.axis_index("member")
        mine = first + warpgroup * ROWS
        rows = (row, pl.ds(mine, ROWS), head)
        plgpu.copy_gmem_to_smem(q_gmem.at[rows], q_smem, q_ready.at[warpgroup])
        plgpu.barrier_wait(q_ready.at[warpgroup])
        pl.when(total > 0)(lambda: plgpu.barrier_wait(k_ready.at[0]))

        def end_turn() -> None:
            """Lets the other consumer multiply, and waits until it has."""
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def tile(i: Array, state: Softmax, *, masked: bool) -> Softmax:
            slot, following = online.cycle(i, tuning.stages), online.cycle(i + 1, tuning.stages)

            def multiply(scores: Any) -> Array:
                plgpu.wgmma(scores, q_smem, k_smem.at[slot].transpose((1, 0)))
                end_turn()  # the product goes on meanwhile
                return scores[...]

            product = pl.run_scoped(multiply, plgpu.ACC((ROWS, tuning.keys), jnp.float32))
            plgpu.barrier_arrive(k_free.at[slot])
            scores = score.of(product)
            if masked:
                query, key = online.indices(tuning.keys)
                in_prefix, at = locate(i, plan)
                here = Bounds(
                    jnp.where(in_prefix, NO_OFFSET, bounds.offset),
                    jnp.where(in_prefix, bounds.prefix, bounds.length),
                    prefix=0,
                )
                end = keys_seen(query + mine, here, causal=causal)
                seen = key + at * tuning.keys < end
                if not is_from_first(bounds, window=window):
                    here = here._replace(  # the prefix is seen from its first key on
                        offset=jnp.where(in_prefix, -NO_OFFSET, bounds.offset),
                        begin=jnp.where(in_prefix, 0, bounds.begin),
                    )
                    low = first_seen(query + mine, here, window=window)
                    seen = jnp.logical_and(seen, key + at * tuning.keys >= low)
                scores = jnp.where(seen, scores, -jnp.inf)
            state, p = online.weigh(state, scores, c=score.factor)
            p = p.astype(q_gmem.dtype)
            # All of the softmax before the turn ends: it is what the other one multiplies behind.
            state, p = lax.optimization_barrier((state, p))
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(v_ready.at[slot])
            plgpu.barrier_wait(turn)

            def await_keys() -> None:
                pl.when(i + 1 < total)(lambda: plgpu.barrier_wait(k_ready.at[following]))

            acc = online.add_values(
                state.acc, p, v_smem.at[slot], interpret=interpret, meanwhile=await_keys
            )
            plgpu.barrier_arrive(v_free.at[slot])
            return state._replace(acc=acc)

        late = warpgroup == tuning.consumers - 1  # half a tile behind the other one, if any
        pl.when(late)(end_turn)
        state = online.start(q_gmem.shape[-1])
        if not is_from_first(bounds, window=window):
            state = lax.fori_loop(0, edge, functools.partial(tile, masked=True), state)
        for masked, start, stop in ((False, edge, unmasked), (True, unmasked, total)):
            state = lax.fori_loop(start, stop, functools.partial(tile, masked=masked), state)
        pl.when(jnp.logical_not(late))(end_turn)

        out, lse_smem[warpgroup] = online.finish(state)
        online.store(out, out_smem, out_gmem.at[rows])
        plgpu.copy_smem_to_gmem(lse_smem.at[warpgroup], lse_gmem.at[row, head, pl.ds(mine, ROWS)])
        plgpu.wait_smem_to_gmem(0)


def locate(i: Array, plan: Tiles) -> tuple[Array, Array]:
    """Whether the i-th tile that a block visits lies in the prefix, and its number there.

    In the order that the head of this file shows.
    """
    ragged = plan.prefix_end - plan.prefix_whole  # 0 or 1
    has_edge = not isinstance(plan.first, int)
    if has_edge:
        i = i - (plan.clear - plan.first)  # below 0 at the edge
    whole = plan.whole - plan.clear
    after = i - plan.prefix_whole - whole  # from 0 on where a mask is needed again
    masked_prefix = jnp.logical_and(after >= 0, after < ragged)
    whole_prefix = i < plan.prefix_whole
    if has_edge:
        whole_prefix = jnp.logical_and(i >= 0, whole_prefix)
    in_prefix = jnp.logical_or(whole_prefix, masked_prefix)
    in_keys = jnp.where(after < 0, i - plan.prefix_whole, whole + after - ragged)
    if has_edge:
        in_keys = plan.clear + jnp.where(i < 0, i, in_keys)
    at = jnp.where(whole_prefix, i, plan.prefix_whole)
    return in_prefix, jnp.where(in_prefix, at, in_keys)
