"""Attention by Pallas Triton kernels, for Ampere, Ada, consumer Blackwell, and Hopper on older JAX.

Two kernels: `prefill`, one launch for the mask of Star Attention, and `decode`, few queries
over many keys that they all see. Both read keys and values where they lie.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention.partial import Partial
from star_jax.attention.tiles import Bounds
from star_jax.attention.triton import decode, prefill

__all__ = ["partial_attention", "refuses"]

DTYPES = ("bfloat16", "float16")

# Up to this many rows (a query token for each head of a group), keys are split over the GPU:
# there are too few tiles of queries to fill it. Rows beyond a tile read the keys again.
DECODE_ROWS = 1024


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
    _check(q, k, v, scale=scale)
    batch, queries, heads, _ = q.shape
    keys, kv_heads = k.shape[1:3]
    length = _per_row(kv_length, keys, batch)
    if not causal and prefix_k is None and queries * (heads // kv_heads) <= DECODE_ROWS:
        return decode.partial_attention(q, k, v, length=length, scale=scale, interpret=interpret)
    prefix_keys = 0 if prefix_k is None else prefix_k.shape[1]
    bounds = Bounds(
        offset=_per_row(q_offset, 0, batch),
        length=length,
        prefix=_per_row(prefix_length, prefix_keys, batch),
    )
    return prefill.partial_attention(
        q, k, v, prefix_k, prefix_v, bounds=bounds, causal=causal, scale=scale, interpret=interpret
    )


def refuses(dtype: DTypeLike, head_dim: int) -> str | None:
    """Why these kernels do not serve a dtype or a head dim; None if they do."""
    name = jnp.dtype(dtype).name
    if name not in DTYPES:
        return f"dtype {name} is not one of {', '.join(DTYPES)}"
    if head_dim not in prefill.CONFIGS:
        return f"head dim {head_dim} is not one of {', '.join(map(str, prefill.CONFIGS))}"
    return None


def _check(q: Queries, k: Keys, v: Values, *, scale: float) -> None:
    reason = refuses(q.dtype, q.shape[-1])
    if reason is None and not q.dtype == k.dtype == v.dtype:
        reason = f"dtypes {q.dtype}, {k.dtype} and {v.dtype} of q, k and v differ"
    if reason is None and scale <= 0:  # scores are compared before they are scaled
        reason = f"{scale=} must be positive"
    if reason is not None:
        raise NotImplementedError(f"the Triton kernels do not serve this: {reason}")


def _per_row(values: PerRow | None, default: int, batch: int) -> PerRow:
    """int32 [B]; the default as a constant of the program, so that nothing runs to make it."""
    if values is None:
        return jnp.asarray(np.full(batch, default, np.int32))
    return values.astype(jnp.int32)
