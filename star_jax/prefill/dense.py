"""Dense attention: queries sharded over `context`, keys and values gathered on every device.

The plainest exact attention. Device c holds the c-th part of the context, so the last device
has the most to attend to: for comparing scores; for speed, there are ring and Ulysses.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Keys, PerRow, Positions, Queries, Values
from star_jax.attention import Segment
from star_jax.models import LayerSpec
from star_jax.prefill.exact import Exact
from star_jax.runtime.mesh import CONTEXT
from star_jax.runtime.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class Dense(Exact):
    """Exact causal attention, keys and values gathered."""

    name: ClassVar[str] = "dense"

    def chunks(self, devices: int) -> tuple[tuple[int, ...], ...]:
        """One chunk a device; see `exact.Exact`."""
        return tuple((c,) for c in range(devices))

    def attend(self, positions: Positions, runtime: Runtime) -> "Gathered":
        """See `exact.Exact`."""
        return Gathered(positions[:, 0], runtime)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Causal attention to the keys of all devices. The state is this layer's K and V."""

    offset: PerRow  # the position of this device's first token
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: object) -> Array:
        packed = jnp.stack([k, v])
        if jax.lax.axis_size(CONTEXT) == 1:
            return packed
        # [2, B, T, K, H] -> [2, B, C*T, K, H]
        return jax.lax.all_gather(packed, CONTEXT, axis=2, tiled=True)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: Array
    ) -> tuple[Queries, None]:
        attend = self.runtime.attention(spec)
        if spec.window is not None:
            k, v = state
            own = Segment(k, v, causal=True, offset=self.offset, window=spec.window)
            return attend(q, [own]).out, None
        segments = [Segment(k, v, causal=True)]
        if jax.lax.axis_size(CONTEXT) > 1:
            # All keys before this device's first: a prefix, as the anchor is for Star Attention.
            segments.insert(0, Segment(state[0], state[1], length=self.offset))
        return attend(q, segments).out, None
