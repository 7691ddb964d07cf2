"""The programs of phase 1: one block a device, and what a block sees of those before it.

The first wave broadcasts the anchor; later ones have it already. The halo goes round the ring:
each device sends its block's last keys to the next one, and what the last device sends, the first
one needs in the wave after.

Of anchor and halo one segment is made, [halo | anchor]: attention does not care in which order
keys lie, so that one length says which of them a block sees.

A layer with a window has neither anchor nor correction. It sees what its window reaches, which is
exact attention: see `window`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from star_jax.array_typing import Array, Int, Keys, PerRow, Queries, Tokens, Values
from star_jax.attention import Segment
from star_jax.attention.windowed import attend_windowed
from star_jax.cache.layer import LayerCache
from star_jax.cache.sharded import Cache, Kept, Pair, Pairs
from star_jax.models import Decoder, LayerSpec
from star_jax.prefill import correction as correction_lib
from star_jax.prefill import window as window_lib
from star_jax.prefill.correction import Rules
from star_jax.prefill.criteria import Block
from star_jax.prefill.selecting import Filled, heads_here, select
from star_jax.prefill.sending import broadcast, first_has, send, unpack
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once


class Before(NamedTuple):
    """What a later wave needs of the waves before it.

    Both are by the index of the layer, for those layers that have them.
    tails: on the first device, the last keys before this wave, as many as the layer sees of them:
      `halo`, or what its window reaches; layout `mesh.CACHE`.
    cache: all keys so far, where there is a correction.
    """

    anchors: Pairs  # A keys, whole on every device of `context`: layout `mesh.TAIL`
    tails: Pairs
    cache: Cache | None = None


class State(NamedTuple):
    """What the layers so far keep, their anchors, and what the device before has sent."""

    kept: Kept
    anchors: Pairs
    tails: Pairs
    rows: Array | None = None  # of the layer at hand, from all devices
    before: Pair | None = None  # of the layer at hand: the keys before the block, for its window


@compiled_once
def programs(runtime: Runtime, rules: Rules) -> tuple[Wrapped, Wrapped]:
    """The two programs of phase 1, compiled per block size: the first wave and a later one.

    first_wave(model, tokens [B, C*b], starts [B, C]) -> (Kept, C*b keys; Before)
    later_wave(model, tokens, starts, Before) -> (Kept, tails); with a correction, it is compiled
    for each capacity of the cache. Where some keys are kept only, both also take `Filled`, whose
    numbers are [B, C]: how much of each block is valid, and is kept.
    """

    kind = Wave if rules.correction is None else CorrectedWave

    def first_wave(
        model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"], *filled: Filled
    ) -> tuple[Kept, Before]:
        state = _run(model, tokens, kind(starts[:, 0], rules, None, runtime, *_here(filled)))
        return state.kept, Before(state.anchors, state.tails)

    def later_wave(
        model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"], before: Before, *filled: Filled
    ) -> tuple[Kept, Pairs]:
        state = _run(model, tokens, kind(starts[:, 0], rules, before, runtime, *_here(filled)))
        return state.kept, state.tails

    weights, layers, blocks = runtime.weights, runtime.layers, mesh_lib.BLOCKS
    cache = None if rules.correction is None else Cache(layers, blocks)  # type: ignore[arg-type]
    made = Before(mesh_lib.TAIL, mesh_lib.CACHE)  # type: ignore[arg-type]
    filled = () if rules.slots is None else (blocks,)
    return (
        runtime.program(first_wave, (weights, blocks, blocks, *filled), (layers, made)),
        runtime.program(
            later_wave,
            (weights, blocks, blocks, made._replace(cache=cache), *filled),
            (layers, mesh_lib.CACHE),
        ),
    )


@compiled_once
def resume(runtime: Runtime, rules: Rules, block: int) -> Wrapped:
    """resume(Kept, keys [], *shared) -> Before, of a context of so many keys on every device.

    shared: what `selecting.parts` gave, where some keys are kept only.
    """
    is_shared = rules.slots is not None and rules.slots.shared > 0

    def read(kept: Kept, keys: Int[Array, ""], *shared: Kept) -> Before:
        gpu, anchors, tails = mesh_lib.is_gpu(runtime.mesh), {}, {}
        for spec, layer in zip(runtime.config.layers, kept, strict=True):
            if spec.window is not None:
                tails[spec.index] = window_lib.last(layer, spec.reach, keys, block)
                continue
            parts = [one[spec.index] for one in shared]
            anchors[spec.index] = _anchor(layer, *parts, rules=rules, gpu=gpu)
            if rules.halo:
                tail = layer.read(keys - rules.halo, rules.halo)
                tails[spec.index] = unpack(send(jnp.stack(tail)))
        return Before(anchors, tails)

    made = Before(mesh_lib.TAIL, mesh_lib.CACHE)  # type: ignore[arg-type]
    more = (runtime.layers,) if is_shared else ()
    return runtime.program(read, (runtime.layers, P(), *more), made)


def _anchor(layer: LayerCache, *parts: LayerCache, rules: Rules, gpu: bool) -> Pair:
    """The anchor of a context, whole on every device; `parts` of it lie on all of them."""
    slots = rules.slots
    shared = slots.shared if slots is not None and parts else 0
    rest = broadcast(jnp.stack(layer.read(0, rules.anchor - shared)), gpu=gpu)
    for part in parts:
        first = jnp.stack(part.read(0, slots.part if slots is not None else 0))
        if jax.lax.axis_size(CONTEXT) > 1:  # [2, B, part, K, H] -> [2, B, C*part, K, H]
            first = jax.lax.all_gather(first, CONTEXT, axis=2, tiled=True)
        rest = jnp.concatenate([first[:, :, :shared], rest], axis=2)
    return unpack(rest)


def _here(filled: tuple[Filled, ...]) -> tuple[Filled, ...]:
    """Those of this device's block, [B, 1], as they are used."""
    return tuple(jax.tree.map(lambda x: x[:, 0], one) for one in filled)


def _run(model: Decoder, tokens: Tokens, attend: "Wave") -> State:
    # The hidden state is dropped: of the last layer only K and V are computed.
    positions = attend.starts[:, None] + jnp.arange(tokens.shape[1])
    _, state = model.run(tokens, positions, attend, State((), {}, {}), axis=TENSOR)
    return state


@dataclasses.dataclass(frozen=True)
class Wave:
    """Attention of one block a device; `before` is of a later wave."""

    starts: PerRow  # the position of this device's block
    rules: Rules
    before: Before | None
    runtime: Runtime
    filled: Filled | None = None  # where some keys are kept only

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        """Sends anchor and halo, or what windows reach."""
        i, rules = spec.index, self.rules
        if spec.window is not None or rules.slots is None:
            state = self._keep(k, v, state)
        if spec.window is not None:
            earlier = None if self.before is None else self.before.tails[i]
            before, tail = window_lib.before_blocks(k, v, spec.reach, earlier)
            return state._replace(before=before, tails=state.tails | {i: tail})
        if self.before is None:
            packed = jnp.stack([k[:, : rules.anchor], v[:, : rules.anchor]])  # [2, B, A, K, H]
            packed = broadcast(packed, gpu=mesh_lib.is_gpu(self.runtime.mesh))
            state = state._replace(anchors=state.anchors | {i: unpack(packed)})
        if rules.halo:
            packed = send(jnp.stack([k[:, -rules.halo :], v[:, -rules.halo :]]))
            state = state._replace(tails=state.tails | {i: unpack(packed)})
        return state

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        if spec.window is not None:
            return self._windowed(spec, q, k, v, state), state
        own, attend = Segment(k, v, causal=True), self.runtime.attention(spec)
        received = self._received(spec, state)
        out = attend(q, [*self._seen(spec, received, block=own.keys), own]).out
        return out, self._select(spec, q, k, v, state)

    def _keep(self, k: Keys, v: Values, state: State) -> State:
        return state._replace(kept=(*state.kept, self.runtime.layer_cache.of(k, v)))

    def _select(self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State) -> State:
        """Keeps some keys only, now that there are queries; does nothing where all are kept."""
        slots, filled = self.rules.slots, self.filled
        if slots is None or filled is None:
            return state
        heads = heads_here(k.shape[2], self.runtime)
        block = Block(spec, q, k, v, self.starts, filled.valid, heads)
        return self._keep(*select(block, slots, filled.kept), state)

    def _windowed(self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State) -> Queries:
        if spec.window is None or state.before is None:
            raise ValueError(f"layer {spec.index} has no window, or was not started")
        return attend_windowed(
            q,
            k,
            v,
            state.before,
            starts=self.starts,
            window=spec.window,
            attend=self.runtime.attention(spec),
        ).out

    def _earlier(self, spec: LayerSpec) -> "correction_lib.Earlier | None":
        """What lies in earlier waves."""
        if self.before is None or self.before.cache is None:
            return None
        cache, tails = self.before.cache, self.before.tails
        tail = Segment(*tails[spec.index]) if self.rules.halo else None
        return correction_lib.Earlier(cache.layers[spec.index], cache.valid[:, 0], tail)

    def _received(self, spec: LayerSpec, state: State) -> tuple[Pair, Pair | None]:
        """Anchor and tail as they come from other devices."""
        anchors = state.anchors if self.before is None else self.before.anchors
        return anchors[spec.index], state.tails.get(spec.index)

    def _seen(
        self, spec: LayerSpec, received: tuple[Pair, Pair | None], *, block: int
    ) -> list[Segment]:
        """Anchor and halo, as far as this device's block sees them."""
        anchor, halo = self.rules.anchor, self.rules.halo
        if self.before is None and jax.lax.axis_size(CONTEXT) == 1:
            return []  # this is block 0
        (k, v), tail = received
        is_first = self.starts == 0
        if tail is None:
            # Block 0 holds the anchor itself.
            length = jnp.where(is_first, 0, anchor) if self.before is None else None
            return [Segment(k, v, length)] if anchor else []
        if self.before is not None:
            tail = first_has(self.before.tails[spec.index], tail)
        later = self.before is not None
        if later and (anchor + halo <= block or jax.lax.axis_size(CONTEXT) > 1):
            length = None  # the block begins behind both
        else:
            # What lies in both is seen as a part of the halo.
            length = jnp.where(is_first, 0, halo + jnp.minimum(anchor, self.starts - halo))
        k, v = (jnp.concatenate(x, axis=1) for x in zip(tail, (k, v), strict=True))
        return [Segment(k, v, length)]


@dataclasses.dataclass(frozen=True)
class CorrectedWave(Wave):
    """The same, and what a few rows learn of the far keys mends the others."""

    def send_queries(self, spec: LayerSpec, q: Queries, state: State) -> State:
        """Sends the strided rows, before keys and values are projected."""
        return state._replace(rows=correction_lib.send_rows(q, self.rules.stride))

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        is_last = spec.index == self.runtime.config.num_layers - 1
        corrected = self.before is not None and spec.window is None
        if corrected and not is_last:  # its attention is not computed
            # The rows come first: only then are keys and values not taken to hide the halo. In
            # the first wave the projection of queries hides the anchor.
            rows, k, v = jax.lax.optimization_barrier((state.rows, k, v))
            state = state._replace(rows=rows)
        return super().start(spec, k, v, state)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        if spec.window is not None:
            return self._windowed(spec, q, k, v, state), state
        if state.rows is None:
            raise ValueError("queries must be sent before they attend")
        rows, mine = jax.lax.optimization_barrier((state.rows, Segment(k, v)))
        with_keys = self.rules.correction in correction_lib.WITH_KEYS
        average = self.runtime.attention(spec, with_keys=with_keys)
        far = correction_lib.far(rows, mine, self.starts, self.rules, self._earlier(spec), average)
        # In this order, so that far keys hide what is on its way from the device before, and the
        # block's own attention hides the partials' way back.
        received = self._received(spec, state)
        far, q, received = jax.lax.optimization_barrier((far, q, received))
        own, attend = Segment(k, v, causal=True), self.runtime.attention(spec)
        part = attend(q, [*self._seen(spec, received, block=own.keys), own])
        back, part = jax.lax.optimization_barrier((correction_lib.send_back(far), part))
        far = correction_lib.merge_packed(back)
        return correction_lib.corrected(q, part, far, spec.scale, self.rules), state
