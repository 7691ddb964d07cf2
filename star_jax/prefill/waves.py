"""The programs of phase 1: one block a device, and what a block sees of those before it.

The first wave broadcasts the anchor; later ones have it already. The halo goes round the ring:
each device sends its block's last keys to the next one, and what the last device sends, the first
one needs in the wave after.

Of anchor and halo one segment is made, [halo | anchor]: attention does not care in which order
keys lie, so that one length says which of them a block sees.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from star_jax.array_typing import Array, Int, Keys, PerRow, Queries, Tokens, Values
from star_jax.attention import Segment
from star_jax.cache.sharded import KV, Cache, Kept
from star_jax.models import Decoder, LayerSpec
from star_jax.prefill import correction as correction_lib
from star_jax.prefill.correction import Rules
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once


class Before(NamedTuple):
    """What a later wave needs of the waves before it.

    tails: on the first device, the last `halo` keys of the wave before; layout `mesh.CACHE`.
    cache: all keys so far, where there is a correction.
    """

    anchors: KV  # A keys, whole on every device of `context`: layout `mesh.TAIL`
    tails: KV
    cache: Cache | None = None


class State(NamedTuple):
    """What the layers so far keep, their anchors, and what the device before has sent."""

    kept: Kept
    anchors: KV
    tails: KV
    rows: Array | None = None  # of the layer at hand, from all devices


NONE = KV((), ())
Pair = tuple[Array, ...]  # keys and values of a layer


@compiled_once
def programs(runtime: Runtime, rules: Rules) -> tuple[Wrapped, Wrapped]:
    """The two programs of phase 1, compiled per block size: the first wave and a later one.

    first_wave(model, tokens [B, C*b], starts [B, C]) -> (Kept, C*b keys; Before)
    later_wave(model, tokens, starts, Before) -> (Kept, tails); with a correction, it is compiled
    for each capacity of the cache.
    """

    kind = Wave if rules.correction is None else CorrectedWave

    def first_wave(
        model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"]
    ) -> tuple[Kept, Before]:
        state = _run(model, tokens, kind(starts[:, 0], rules, None, runtime))
        return state.kept, Before(state.anchors, state.tails)

    def later_wave(
        model: Decoder, tokens: Tokens, starts: Int[Array, "B 1"], before: Before
    ) -> tuple[Kept, KV]:
        state = _run(model, tokens, kind(starts[:, 0], rules, before, runtime))
        return state.kept, state.tails

    weights, layers, blocks = runtime.weights, runtime.layers, mesh_lib.BLOCKS
    cache = None if rules.correction is None else Cache(layers, blocks)  # type: ignore[arg-type]
    made = Before(mesh_lib.TAIL, mesh_lib.CACHE)  # type: ignore[arg-type]
    return (
        runtime.program(first_wave, (weights, blocks, blocks), (layers, made)),
        runtime.program(
            later_wave,
            (weights, blocks, blocks, made._replace(cache=cache)),
            (layers, mesh_lib.CACHE),
        ),
    )


@compiled_once
def resume(runtime: Runtime, rules: Rules) -> Wrapped:
    """resume(Kept, keys []) -> Before, of a context of so many keys on every device."""

    def read(kept: Kept, keys: Int[Array, ""]) -> Before:
        gpu, anchors, tails = mesh_lib.is_gpu(runtime.mesh), NONE, NONE
        for layer in kept:
            anchors = _add(anchors, broadcast(jnp.stack(layer.read(0, rules.anchor)), gpu=gpu))
            if rules.halo:
                tail = layer.read(keys - rules.halo, rules.halo)
                tails = _add(tails, send(jnp.stack(tail)))
        return Before(anchors, tails)

    made = Before(mesh_lib.TAIL, mesh_lib.CACHE)  # type: ignore[arg-type]
    return runtime.program(read, (runtime.layers, P()), made)


def _run(model: Decoder, tokens: Tokens, attend: "Wave") -> State:
    # The hidden state is dropped: of the last layer only K and V are computed.
    positions = attend.starts[:, None] + jnp.arange(tokens.shape[1])
    _, state = model.run(tokens, positions, attend, State((), NONE, NONE), axis=TENSOR)
    return state


@dataclasses.dataclass(frozen=True)
class Wave:
    """Attention of one block a device; `before` is of a later wave."""

    starts: PerRow  # the position of this device's block
    rules: Rules
    before: Before | None
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        """Sends anchor and halo."""
        kept, anchors, tails, rows = state
        rules = self.rules
        if self.before is None:
            packed = jnp.stack([k[:, : rules.anchor], v[:, : rules.anchor]])  # [2, B, A, K, H]
            packed = broadcast(packed, gpu=mesh_lib.is_gpu(self.runtime.mesh))
            anchors = _add(anchors, packed)
        if rules.halo:
            tails = _add(tails, send(jnp.stack([k[:, -rules.halo :], v[:, -rules.halo :]])))
        return State((*kept, self.runtime.layer_cache.of(k, v)), anchors, tails, rows)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        own, attend = Segment(k, v, causal=True), self.runtime.attention(spec)
        received = self._received(spec, state)
        return attend(q, [*self._seen(spec, received, block=own.keys), own]).out, state

    def _earlier(self, spec: LayerSpec) -> "correction_lib.Earlier | None":
        """What lies in earlier waves."""
        if self.before is None or self.before.cache is None:
            return None
        cache, tails = self.before.cache, self.before.tails
        tail = Segment(tails.k[spec.index], tails.v[spec.index]) if self.rules.halo else None
        return correction_lib.Earlier(cache.layers[spec.index], cache.valid[:, 0], tail)

    def _received(self, spec: LayerSpec, state: State) -> tuple[Pair, Pair]:
        """Anchor and tail as they come from other devices; nothing where there is none."""
        anchors = state.anchors if self.before is None else self.before.anchors
        return _of_layer(anchors, spec.index), _of_layer(state.tails, spec.index)

    def _seen(self, spec: LayerSpec, received: tuple[Pair, Pair], *, block: int) -> list[Segment]:
        """Anchor and halo, as far as this device's block sees them."""
        anchor, halo = self.rules.anchor, self.rules.halo
        if self.before is None and jax.lax.axis_size(CONTEXT) == 1:
            return []  # this is block 0
        (k, v), tail = received
        is_first = self.starts == 0
        if not halo:
            # Block 0 holds the anchor itself.
            length = jnp.where(is_first, 0, anchor) if self.before is None else None
            return [Segment(k, v, length)] if anchor else []
        if self.before is not None:
            earlier = _of_layer(self.before.tails, spec.index)
            here = jax.lax.axis_index(CONTEXT) == 0
            tail = tuple(jnp.where(here, *both) for both in zip(earlier, tail, strict=True))
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
        if self.before is not None and not is_last:  # its attention is not computed
            # The rows come first: only then are keys and values not taken to hide the halo. In
            # the first wave the projection of queries hides the anchor.
            rows, k, v = jax.lax.optimization_barrier((state.rows, k, v))
            state = state._replace(rows=rows)
        return super().start(spec, k, v, state)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
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


def _of_layer(kv: KV, index: int) -> Pair:
    return (kv.k[index], kv.v[index]) if kv.k else ()


def _add(to: KV, packed: Array) -> KV:
    return KV((*to.k, packed[0]), (*to.v, packed[1]))


def broadcast(x: Array, *, gpu: bool) -> Array:
    """What the first device of `context` holds, on all of them; one collective."""
    if jax.lax.axis_size(CONTEXT) == 1 or not x.size:
        return x
    if gpu:
        return jax.lax.pbroadcast(x, (CONTEXT,), 0)  # [2, B, A, K, H], the same shape
    # No broadcast on CPUs. The sum is exact: the other devices add zeros.
    return jax.lax.psum(jnp.where(jax.lax.axis_index(CONTEXT) == 0, x, 0), CONTEXT)


def send(x: Array) -> Array:
    """What the device before holds; the first one gets the last one's. [2, B, h, K, H]."""
    devices = jax.lax.axis_size(CONTEXT)
    if devices == 1:
        return x
    return jax.lax.ppermute(x, CONTEXT, [(c, (c + 1) % devices) for c in range(devices)])
