"""Attention in plain float32, all scores at once: the meaning of every other implementation."""

import jax
import jax.numpy as jnp

from star_jax.array_typing import (
    Array,
    Bool,
    Keys,
    PerRow,
    PrefixKeys,
    PrefixValues,
    Queries,
    Values,
)
from star_jax.attention.partial import Partial


def refuses_device(device: jax.Device) -> str:
    """It runs everywhere."""
    return ""


def refuses(dtype: str, head_dim: int, device: jax.Device) -> str:
    """It serves every dtype and head dim."""
    return ""


def partial_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool,
    q_offset: PerRow | None = None,
    kv_length: PerRow | None = None,
    prefix_k: PrefixKeys | None = None,
    prefix_v: PrefixValues | None = None,
    prefix_length: PerRow | None = None,
    scale: float,
) -> Partial:
    """See `dispatch.partial_attention`."""
    mask = visible(q, k, causal=causal, q_offset=q_offset, kv_length=kv_length)
    if prefix_k is not None and prefix_v is not None:
        prefix = visible(q, prefix_k, causal=False, q_offset=None, kv_length=prefix_length)
        mask = jnp.concatenate([prefix, mask], axis=-1)
        k = jnp.concatenate([prefix_k, k], axis=1)
        v = jnp.concatenate([prefix_v, v], axis=1)
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("btnh,bsnh->btns", q, k, precision=highest) * scale
    scores = jnp.where(mask[:, :, None, :], scores, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1)  # -inf where no key is visible
    weights = jnp.exp(scores - jnp.where(lse == -jnp.inf, 0.0, lse)[..., None])
    return Partial(jnp.einsum("btns,bsnh->btnh", weights, v, precision=highest), lse)


def visible(
    q: Queries, k: Keys, *, causal: bool, q_offset: PerRow | None, kv_length: PerRow | None
) -> Bool[Array, "B T S"]:
    """Which keys of one segment each query sees."""
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    key = jnp.arange(keys)[None, None, :]
    mask = jnp.ones((batch, queries, keys), bool)
    if causal:
        offset = jnp.zeros(batch, int) if q_offset is None else q_offset
        mask &= key <= jnp.arange(queries)[None, :, None] + offset[:, None, None]
    if kv_length is not None:
        mask &= key < kv_length[:, None, None]
    return mask
