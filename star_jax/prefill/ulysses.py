"""Ulysses attention: an all-to-all gives each device all tokens of some heads, and back.

Balanced, since heads are alike; the number of devices is limited by the key/value heads.

Source: Jacobs et al., "DeepSpeed Ulysses", arXiv 2309.14509, section 3.1.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.array_typing import Array, Keys, Positions, Queries, Values
from star_jax.attention import Segment
from star_jax.models import DecoderConfig, LayerSpec
from star_jax.prefill.exact import Exact
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class Ulysses(Exact):
    """Exact causal attention, heads exchanged for tokens."""

    name: ClassVar[str] = "ulysses"

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """Raises ValueError if heads cannot be divided over the devices of `context`."""
        context, tensor = mesh.shape[CONTEXT], mesh.shape[TENSOR]
        local = {
            "num_attention_heads": config.num_heads // tensor,
            "num_key_value_heads": max(config.num_kv_heads // tensor, 1),
        }
        for name, heads in local.items():
            if heads % context:
                raise ValueError(
                    f"Ulysses: {name} {heads} per device of {tensor=} cannot be divided over "
                    f"{context=} devices; use Ring(), or fewer devices on the context axis"
                )

    def chunks(self, devices: int) -> tuple[tuple[int, ...], ...]:
        """One chunk a device; see `exact.Exact`."""
        return tuple((c,) for c in range(devices))

    def attend(self, positions: Positions, runtime: Runtime) -> "Exchanged":
        """See `exact.Exact`."""
        return Exchanged(runtime)


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """Causal attention to all tokens, of some heads. The state is K and V of these heads."""

    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: object) -> Array:
        # [2, B, T, K, H] -> [2, B, C*T, K/C, H]
        return _exchange(jnp.stack([k, v]), heads_to_tokens=True)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: Array
    ) -> tuple[Queries, None]:
        part = self.runtime.attention(spec)(
            _exchange(q, heads_to_tokens=True),  # [B, T, N, H] -> [B, C*T, N/C, H]
            [Segment(state[0], state[1], causal=True, window=spec.window)],
        )
        out = part.out.astype(q.dtype)  # before it is sent: half the bytes
        return _exchange(out, heads_to_tokens=False), None  # back to [B, T, N, H]


def _exchange(x: Array, *, heads_to_tokens: bool) -> Array:
    """Splits one axis of [..., tokens, heads, H] over `context`, and joins the other."""
    if jax.lax.axis_size(CONTEXT) == 1:
        return x
    tokens, heads = x.ndim - 3, x.ndim - 2
    split, join = (heads, tokens) if heads_to_tokens else (tokens, heads)
    return jax.lax.all_to_all(x, CONTEXT, split, join, tiled=True)
