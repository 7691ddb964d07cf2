"""Phase 1 of Star Attention: a context is encoded block by block, each block seeing the anchor.

Block i > 0 attends causally to itself, and to all of the anchor, the first `anchor_size`
tokens. Anchor tokens see only each other, so their keys and values are the same wherever
they are computed: the device of block 0 computes them once and broadcasts them.

Blocks go in waves of one block per device. The first wave broadcasts the anchor, later
waves communicate nothing, and two programs serve contexts of every length.

Source: Acharya et al., "Star Attention: Efficient LLM Inference over Long Sequences",
ICML 2025, section 2.1; the shared anchor is ours.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from star_jax.array_typing import Array, Int, Keys, Queries, Tokens, Values
from star_jax.attention import Segment
from star_jax.cache.sharded import (
    KV,
    ROUND,
    Cache,
    Kept,
    Shards,
    allocate,
    bucket,
    eighths,
    pad,
    write,
)
from star_jax.models import Attend, Decoder, DecoderConfig, LayerSpec
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once
from star_jax.sizes import whole

State = tuple[Kept, KV]  # of the layers so far: what is kept, and the anchor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Star:
    """Star Attention. `block_size` and `anchor_size` in tokens; the anchor defaults to a block.

    An anchor of 0 is no anchor: allowed, as an ablation.
    """

    name: ClassVar[str] = "star"
    is_exact: ClassVar[bool] = False

    block_size: int
    anchor_size: int | None = None

    def __post_init__(self) -> None:
        # As ints: what NumPy counts with may overflow.
        object.__setattr__(self, "block_size", whole("block_size", self.block_size))
        if self.anchor_size is not None:
            object.__setattr__(self, "anchor_size", whole("anchor_size", self.anchor_size, least=0))
        if self.anchor > self.block_size:
            raise ValueError(
                f"anchor_size={self.anchor} is above block_size={self.block_size}: "
                "the anchor is taken from the first block"
            )

    @property
    def anchor(self) -> int:
        return self.block_size if self.anchor_size is None else self.anchor_size

    @property
    def sizes(self) -> dict[str, int]:
        return {"block_size": self.block_size, "anchor_size": self.anchor}

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """Raises nothing: it serves any model, on any mesh."""

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """Warns of devices without a block, and of so few blocks that nothing is gained."""
        found, longest, devices = [], max(lengths), mesh.shape[CONTEXT]
        blocks = -(-longest // self.block_size)
        if blocks < devices:
            found.append(
                f"{blocks} block(s) of {self.block_size} tokens for {devices} devices on the "
                f"context axis: {devices - blocks} idle; use smaller blocks"
            )
        if blocks <= 2:
            found.append(
                f"{longest} tokens are {blocks} block(s) of {self.block_size}: exact attention "
                "would be as fast; use Ring() or Dense(), or smaller blocks"
            )
        return found

    def encode(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        runtime: Runtime,
    ) -> tuple[Cache, Shards]:
        """See `kinds.Kind`."""
        return _encode(model, rows, self, runtime)


class Sizes(NamedTuple):
    """What phase 1 is compiled and makes room for, in tokens but for `waves`.

    room: keys of a context that each device has room for. span: tokens of a wave.
    """

    block: int
    anchor: int
    waves: int
    room: int
    span: int


def sizes(attention: Star, longest: int, devices: int) -> Sizes:
    """Those of contexts of at most `longest` tokens, on so many devices of `context`."""
    block = min(attention.block_size, bucket(longest))  # 100 tokens do not cost a whole block
    waves = -(-longest // (devices * block))
    room = -(-eighths(waves) * block // ROUND) * ROUND
    return Sizes(block, min(attention.anchor, block), waves, room, devices * block)


def _encode(
    model: Decoder, rows: list[list[int]], attention: Star, runtime: Runtime
) -> tuple[Cache, Shards]:
    mesh, devices = runtime.mesh, runtime.mesh.shape[CONTEXT]
    block, anchor, waves, room, span = sizes(attention, max(map(len, rows)), devices)
    tokens = pad(rows, waves * span)

    put = functools.partial(runtime.put, spec=mesh_lib.BLOCKS)
    starts = np.broadcast_to(np.arange(devices, dtype=np.int32) * block, (len(rows), devices))
    first, later = programs(runtime, anchor)
    kept, anchors = first(model, put(tokens[:, :span]), put(starts))
    if room > block:
        # One name for the wave and the cache: the first wave's arrays go when they are written.
        kept = write(allocate(kept, room, mesh=mesh), kept, 0, mesh=mesh)
        for w in range(1, waves):
            part, at = tokens[:, w * span : (w + 1) * span], starts + w * span
            kept = write(kept, later(model, put(part), put(at), anchors), w, mesh=mesh)

    shards = Shards(
        tuple(tuple(range(c * block, waves * span, span)) for c in range(devices)), size=block
    )
    return Cache(kept, put(shards.valid([len(row) for row in rows]))), shards


@compiled_once
def programs(runtime: Runtime, anchor: int) -> tuple[Wrapped, Wrapped]:
    """The two programs of phase 1, compiled per block size: the first wave and a later one.

    first_wave(model, tokens [B, C*b], starts [B, C]) -> (Kept, C*b keys; anchor KV [B, A, K, H])
    later_wave(model, tokens, starts, anchor KV) -> Kept
    """

    def first_wave(model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"]) -> tuple[Kept, KV]:
        return _run(model, tokens, starts, FirstWave(starts, anchor, runtime))

    def later_wave(model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"], anchors: KV) -> Kept:
        return _run(model, tokens, starts, LaterWave(anchors, runtime))[0]

    weights, layers = runtime.weights, runtime.layers
    blocks, tail = mesh_lib.BLOCKS, mesh_lib.TAIL
    return (
        runtime.program(first_wave, (weights, blocks, blocks), (layers, tail)),
        runtime.program(later_wave, (weights, blocks, blocks, tail), layers),
    )


def _run(
    model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"], attend: Attend[State]
) -> tuple[Kept, KV]:
    # The hidden state is dropped: of the last layer only K and V are computed.
    positions = starts + jnp.arange(tokens.shape[1])
    nothing: State = ((), KV((), ()))
    _, (kept, anchors) = model.run(tokens, positions, attend, nothing, axis=TENSOR)
    return kept, anchors


@dataclasses.dataclass(frozen=True)
class FirstWave:
    """The wave whose first device holds block 0, from which the anchor comes."""

    starts: Array  # [B, 1], the position of this device's block
    anchor: int
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        kept, anchors = state
        packed = jnp.stack([k[:, : self.anchor], v[:, : self.anchor]])  # [2, B, A, K, H]
        anchor_k, anchor_v = broadcast(packed, gpu=mesh_lib.is_gpu(self.runtime.mesh))
        anchors = KV((*anchors.k, anchor_k), (*anchors.v, anchor_v))
        return (*kept, self.runtime.layer_cache.of(k, v)), anchors

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        segments = [Segment(k, v, causal=True)]
        alone = jax.lax.axis_size(CONTEXT) == 1  # then this is block 0
        if not alone and self.anchor:
            length = jnp.where(self.starts[:, 0] == 0, 0, self.anchor)  # block 0 holds it itself
            anchor = Segment(state[1].k[spec.index], state[1].v[spec.index], length)
            segments.insert(0, anchor)
        part = self.runtime.attention(spec)(q, segments)
        return part.out, state


@dataclasses.dataclass(frozen=True)
class LaterWave:
    """A wave whose blocks all see the anchor, which is there already."""

    anchors: KV
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        return (*state[0], self.runtime.layer_cache.of(k, v)), state[1]

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        anchor = Segment(self.anchors.k[spec.index], self.anchors.v[spec.index])
        part = self.runtime.attention(spec)(q, [anchor, Segment(k, v, causal=True)])
        return part.out, state


def broadcast(x: Array, *, gpu: bool) -> Array:
    """What the first device of `context` holds, on all of them; one collective."""
    if jax.lax.axis_size(CONTEXT) == 1 or not x.size:
        return x
    if gpu:
        return jax.lax.pbroadcast(x, (CONTEXT,), 0)  # [2, B, A, K, H], the same shape
    # No broadcast on CPUs. The sum is exact: the other devices add zeros.
    return jax.lax.psum(jnp.where(jax.lax.axis_index(CONTEXT) == 0, x, 0), CONTEXT)
