"""Attention in plain float32, all scores at once: the meaning of every other implementation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from star_jax.array_typing import Queries
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment


def refuses_device(device: jax.Device) -> str:
    """It runs everywhere."""
    return ""


def refuses(dtype: str, head_dim: int, device: jax.Device) -> str:
    """It serves every dtype and head dim."""
    return ""


def refuses_layer(window: int | None, soft_cap: float | None) -> str:
    """It serves every layer."""
    return ""


def attend(
    q: Queries,
    segments: Sequence[Segment],
    *,
    scale: float,
    soft_cap: float | None,
    with_keys: bool = False,
) -> Partial:
    """See `dispatch.partial_attention`."""
    mask = jnp.concatenate([s.visible(q.shape[1]) for s in segments], axis=-1)
    k, v = (jnp.concatenate(x, axis=1) for x in zip(*(s.whole() for s in segments), strict=True))
    if with_keys:
        v = jnp.concatenate([v, k], axis=-1)
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("btnh,bsnh->btns", q, k, precision=highest) * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    scores = jnp.where(mask[:, :, None, :], scores, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1)  # -inf where no key is visible
    weights = jnp.exp(scores - jnp.where(lse == -jnp.inf, 0.0, lse)[..., None])
    return Partial(jnp.einsum("btns,bsnh->btnh", weights, v, precision=highest), lse)
