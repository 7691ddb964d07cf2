"""Attention by Pallas Triton kernels, for Ampere, Ada, Blackwell, and Hopper on older JAX.

Two kernels: `prefill`, one launch for the mask of Star Attention and for windows, and `decode`,
few queries over many keys that they all see. Both read keys and values where they lie; those in
8 bits `decode` alone, for any number of queries.
"""

from collections.abc import Sequence
from typing import Any

import jax

from star_jax.array_typing import Queries
from star_jax.attention import device as device_lib
from star_jax.attention import kernels, xla
from star_jax.attention.partial import Partial, merge
from star_jax.attention.segment import Segment
from star_jax.attention.triton import decode, prefill

# JAX counts offsets in 32 bits where an array has less than 2**32 bytes.
_MOST_IN_8_BITS = 2**31


def attend(
    q: Queries,
    segments: Sequence[Segment],
    *,
    scale: float,
    soft_cap: float | None,
    interpret: bool = False,
) -> Partial:
    """See `dispatch.partial_attention`. `interpret` runs the kernels on any device, slowly."""
    head_dim = q.shape[-1]
    if reason := refuses(str(q.dtype), head_dim):
        raise NotImplementedError(reason)
    prefix, own = kernels.prefix_and_own(q, segments, scale=scale, name="triton")
    if not own.is_plain and own.k.size > _MOST_IN_8_BITS:
        raise NotImplementedError(
            f"triton with keys in 8 bits of {own.k.shape}, on one device in one layer: at most "
            f"{_MOST_IN_8_BITS} numbers; use fewer contexts at once, or more devices"
        )
    if not interpret:
        q = device_lib.only_on_cuda(q, implementation="triton")
    score = kernels.Score(scale, soft_cap)
    how: dict[str, Any] = {"score": score, "interpret": interpret}
    if not kernels.is_few(q, prefix, own):
        many = prefill.tuning_for(own, score, head_dim)
        return prefill.attend(q, prefix, own, tuning=many, **how)
    few = decode.tuning_for(own, kernels.rows(q, own), head_dim)
    first, head = kernels.without_head(own, few.keys)
    part = decode.attend(q, own, first, tuning=few, **how)
    if head is None:
        return part
    return merge(part, xla.attend(q, [head], scale=scale, soft_cap=soft_cap))


def refuses_device(device: jax.Device) -> str:
    """Why it cannot run on this device; empty if it can."""
    return kernels.too_old(device, name="triton") or kernels.counts_in_64_bits("triton")


def refuses(dtype: str, head_dim: int, device: jax.Device | None = None) -> str:
    """Why it cannot serve such arrays, on any GPU; empty if it can."""
    if dtype not in kernels.DTYPES:
        return f"triton has no kernel for {dtype}, only for {' and '.join(kernels.DTYPES)}"
    if head_dim not in prefill.DEFAULTS:
        return f"triton has no kernel for {head_dim=}, only for {tuple(prefill.DEFAULTS)}"
    return ""


def refuses_layer(window: int | None, soft_cap: float | None) -> str:
    """It serves every layer; a window in the last segment alone."""
    return ""
