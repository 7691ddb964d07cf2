"""Ring attention: every device keeps its queries, and keys and values travel around.

Balanced over the causal triangle: of 2C equal chunks, device c holds the c-th from the front
and the c-th from the back. Then every device attends to exactly two pairs of whole chunks at
every step, and no mask is needed but at the first, over its own chunks. Each step's keys and
values are sent on before they are attended to, so that the attention hides the transfer.

A layer with a window attends to its device's two chunks and to what the window reaches before each
of them, which comes from the neighbours, or from all devices where chunks are shorter than that.

Source: Liu et al., "Ring Attention with Blockwise Transformers for Near-Infinite Context",
ICLR 2024; the order of the chunks is called zigzag.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Bool, Keys, Positions, Queries, Values
from star_jax.attention import Partial, Segment, merge
from star_jax.attention.windowed import attend_windowed
from star_jax.models import LayerSpec
from star_jax.prefill.exact import Exact
from star_jax.runtime.mesh import CONTEXT
from star_jax.runtime.runtime import Attention, Runtime


@dataclasses.dataclass(frozen=True)
class Ring(Exact):
    """Exact causal attention, keys and values passed around."""

    name: ClassVar[str] = "ring"

    def chunks(self, devices: int) -> tuple[tuple[int, ...], ...]:
        """Two chunks a device, one from each end; see `exact.Exact`."""
        return tuple((c, 2 * devices - 1 - c) for c in range(devices))

    def attend(self, positions: Positions, runtime: Runtime) -> "Passing":
        """See `exact.Exact`."""
        return Passing(runtime)


@dataclasses.dataclass(frozen=True)
class Passing:
    """Causal attention to all chunks. The state is K and V on their way to the next device.

    Of a layer with a window it is what lies before this device's chunks.
    """

    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: object) -> Array | None:
        if spec.window is not None:
            return _before_chunks(jnp.stack([k, v]), spec.reach)
        return None if jax.lax.axis_size(CONTEXT) == 1 else _send(jnp.stack([k, v]))

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: Array | None
    ) -> tuple[Queries, None]:
        devices = jax.lax.axis_size(CONTEXT)
        if spec.window is not None and state is not None:
            return _windowed(q, k, v, state, spec.window, self.runtime.attention(spec)), None
        # A device's own chunks are in the order of the context, if not next to each other.
        attend = self.runtime.attention(spec)
        part = attend(q, [Segment(k, v, causal=True)])
        if state is None:
            return part.out, None

        def add(part: Partial, packed: Array, step: Array | int) -> Partial:
            return merge(part, _attend_to(packed, q, step, attend))

        def body(step: Array, carry: tuple[Partial, Array]) -> tuple[Partial, Array]:
            part, packed = carry
            sent = _send(packed)
            return add(part, packed, step), sent

        part, packed = jax.lax.fori_loop(1, devices - 1, body, (part, state))
        return add(part, packed, devices - 1).out, None


def _send(packed: Array) -> Array:
    """To the next device: [2, B, T, K, H], the same shape."""
    devices = jax.lax.axis_size(CONTEXT)
    return jax.lax.ppermute(packed, CONTEXT, [(c, (c + 1) % devices) for c in range(devices)])


def _before_chunks(packed: Array, reach: int) -> Array:
    """The `reach` keys before each of a device's chunks: [2, 2B, reach, K, H], early ones first."""
    devices, here = jax.lax.axis_size(CONTEXT), jax.lax.axis_index(CONTEXT)
    early, late = jnp.split(packed, 2, axis=2)
    chunk = early.shape[2]
    if reach <= chunk:
        ends = jnp.stack([early[:, :, chunk - reach :], late[:, :, chunk - reach :]])
        of_early, of_late = ends
        if devices > 1 and reach:
            # Early chunks follow those of the device before, late ones those of the device after.
            of_early = jax.lax.ppermute(ends[0], CONTEXT, [(c, c + 1) for c in range(devices - 1)])
            of_late = jax.lax.ppermute(ends[1], CONTEXT, [(c + 1, c) for c in range(devices - 1)])
        # The last early chunk and the first late one are neighbours.
        of_late = jnp.where(here == devices - 1, ends[0], of_late)
        return jnp.concatenate([of_early, of_late], axis=1)
    both = jnp.stack([early, late])
    # -> [C, 2, 2, B, T/2, K, H]
    whole = both[None] if devices == 1 else jax.lax.all_gather(both, CONTEXT)
    # In order: the early chunks, and the late ones from the last device to the first.
    chunks = jnp.moveaxis(jnp.concatenate([whole[:, 0], whole[::-1, 1]]), 0, 2)
    keys = chunks.reshape(*packed.shape[:2], -1, *packed.shape[3:])
    keys = jnp.pad(keys, ((0, 0), (0, 0), (reach, 0), (0, 0), (0, 0)))
    numbers = here, 2 * devices - 1 - here
    found = [jax.lax.dynamic_slice_in_dim(keys, n * chunk, reach, axis=2) for n in numbers]
    return jnp.concatenate(found, axis=1)


def _windowed(
    q: Queries, k: Keys, v: Values, before: Array, window: int, attend: Attention
) -> Queries:
    """Attention of both chunks, side by side as rows of a batch, as far as the window reaches."""
    devices, here = jax.lax.axis_size(CONTEXT), jax.lax.axis_index(CONTEXT)
    q, k, v = (jnp.concatenate(jnp.split(x, 2, axis=1)) for x in (q, k, v))
    numbers = jnp.repeat(jnp.stack([here, 2 * devices - 1 - here]), q.shape[0] // 2)
    part = attend_windowed(
        q,
        k,
        v,
        (before[0], before[1]),
        starts=numbers * k.shape[1],
        window=window,
        attend=attend,
    )
    return jnp.concatenate(jnp.split(part.out, 2), axis=1)


def _attend_to(
    packed: Array, q: Queries, step: Array | int, attend: Callable[..., Partial]
) -> Partial:
    """Attention of [early | late] queries to another device's chunks, [2, B, T, K, H].

    Chunks of a device before this one: both of our chunks see its early one, none its late
    one. Of a device after this one: our late chunk sees both, our early one none. In either
    case the late chunk sees the early one, and there is one more pair.
    """
    rank, devices = jax.lax.axis_index(CONTEXT), jax.lax.axis_size(CONTEXT)
    from_before = (rank - step) % devices < rank
    early, late = jnp.split(q, 2, axis=1)
    first, second = jnp.split(packed, 2, axis=2)
    queries = jnp.concatenate([late, jnp.where(from_before, early, late)])  # [2B, T/2, N, H]
    keys, values = jnp.concatenate([first, jnp.where(from_before, first, second)], axis=1)
    part = attend(queries, [Segment(keys, values)])
    always, other = (Partial(*x) for x in zip(*(jnp.split(x, 2) for x in part), strict=True))
    of_early = _only_if(from_before, other)
    of_late = merge(always, _only_if(~from_before, other))
    return Partial(*(jnp.concatenate(x, axis=1) for x in zip(of_early, of_late, strict=True)))


def _only_if(condition: Bool[Array, ""], part: Partial) -> Partial:
    """The partial, or that of no keys."""
    return Partial(part.out, jnp.where(condition, part.lse, -jnp.inf))
