"""Attention by Pallas Triton kernels, for Ampere, Ada, Blackwell, and Hopper on older JAX.

Two kernels: `prefill`, one launch for the mask of Star Attention, and `decode`, few queries
over many keys that they all see. Both read keys and values where they lie.
"""

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention import device as device_lib
from star_jax.attention import kernels
from star_jax.attention.partial import Partial
from star_jax.attention.tiles import Bounds
from star_jax.attention.triton import decode, prefill


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
    interpret: bool = False,
) -> Partial:
    """See `dispatch.partial_attention`; there is at least one query, and a key in each segment.

    `interpret` runs the kernels on any device, slowly.
    """
    if reason := refuses(str(q.dtype), q.shape[-1]):
        raise NotImplementedError(reason)
    kernels.check(q, k, v, scale=scale, name="triton")
    if not interpret:
        q = device_lib.only_on_cuda(q, implementation="triton")
    batch, queries, heads, head_dim = q.shape
    keys, kv_heads = k.shape[1:3]
    length = _per_row(kv_length, keys, batch)
    rows = queries * (heads // kv_heads)
    if not causal and prefix_k is None and rows <= kernels.DECODE_ROWS:
        few = (decode.FEW if rows <= decode.FEW_ROWS else decode.MANY)[head_dim]
        return decode.partial_attention(
            q, k, v, length=length, scale=scale, config=few, interpret=interpret
        )
    prefix_keys = 0 if prefix_k is None else prefix_k.shape[1]
    bounds = Bounds(
        offset=_per_row(q_offset, 0, batch),
        length=length,
        prefix=_per_row(prefix_length, prefix_keys, batch),
    )
    return prefill.partial_attention(
        q,
        k,
        v,
        prefix_k,
        prefix_v,
        bounds=bounds,
        causal=causal,
        scale=scale,
        config=prefill.CONFIGS[head_dim],
        interpret=interpret,
    )


def refuses_device(device: jax.Device) -> str:
    """Why it cannot run on this device; empty if it can."""
    return kernels.too_old(device, name="triton")


def refuses(dtype: str, head_dim: int, device: jax.Device | None = None) -> str:
    """Why it cannot serve such arrays, on any GPU; empty if it can."""
    if dtype not in kernels.DTYPES:
        return f"triton has no kernel for {dtype}, only for {' and '.join(kernels.DTYPES)}"
    if head_dim not in prefill.CONFIGS:
        return f"triton has no kernel for {head_dim=}, only for {tuple(prefill.CONFIGS)}"
    return ""


def _per_row(values: PerRow | None, default: int, batch: int) -> PerRow:
    """int32 [B]; the default as a constant of the program, so that nothing runs to make it."""
    if values is None:
        return jnp.asarray(np.full(batch, default, np.int32))
    return values.astype(jnp.int32)
