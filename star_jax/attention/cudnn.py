"""Attention by cuDNN, on NVIDIA GPUs: a peer to measure by, taken by name.

cuDNN knows one segment of keys and aligns its causal mask at the top left, so that each segment
is a call, several are merged, and offsets are refused. JAX's public function rounds the LSE to the
inputs' dtype, which no merge survives; the one behind it, called here, gives it in float32.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused

from star_jax.array_typing import Queries
from star_jax.attention import device as device_lib
from star_jax.attention import kernels
from star_jax.attention.partial import Partial, merge
from star_jax.attention.segment import Segment


def refuses_device(device: jax.Device) -> str:
    """Why it cannot run on this device; empty if it can."""
    return kernels.too_old(device, name="cudnn")


def refuses(dtype: str, head_dim: int, device: jax.Device | None = None) -> str:
    """Why it cannot serve such arrays, on this GPU or on any; empty if it can."""
    if dtype not in kernels.DTYPES:
        return f"cudnn has no attention in {dtype}, only in {' and '.join(kernels.DTYPES)}"
    found = None if device is None else device_lib.capability(device)
    most = 128 if found is not None and found < (9, 0) else 256
    if head_dim > most or head_dim % 8:
        return f"cudnn has no {head_dim=} here, only multiples of 8 up to {most}"
    return ""


def refuses_layer(window: int | None, soft_cap: float | None) -> str:
    """Why it cannot serve a layer with these; empty if it can."""
    if soft_cap is not None:
        return f"cudnn has no soft cap ({soft_cap=}); xla has"
    return "" if window is None else f"cudnn has no windows ({window=}); xla has"


def attend(
    q: Queries, segments: Sequence[Segment], *, scale: float, soft_cap: float | None
) -> Partial:
    """See `dispatch.partial_attention`. The output is rounded to the dtype of q on its way."""
    if reason := refuses(str(q.dtype), q.shape[-1]):
        raise NotImplementedError(reason)
    for s in segments:
        if reason := refuses_layer(s.window, soft_cap):
            raise NotImplementedError(reason)
    if any(s.causal and s.offset is not None for s in segments):
        raise NotImplementedError("offset with cudnn, whose causal mask begins at the first key")
    if any(s.begin is not None for s in segments):
        raise NotImplementedError("keys from a later one on (begin) with cudnn, which has no such")
    q = device_lib.only_on_cuda(q, implementation="cudnn")
    parts = [_one_segment(q, s, scale=scale) for s in segments]
    return parts[0] if len(parts) == 1 else merge(*parts)


def _one_segment(q: Queries, s: Segment, *, scale: float) -> Partial:
    try:
        fused.check_cudnn_version()
    except RuntimeError as e:  # while tracing, before it is known for which devices
        here = f"the default device here is a {jax.default_backend()}"
        raise NotImplementedError(f"cudnn runs on NVIDIA GPUs, with cuDNN; {here}: {e}") from e
    masks = fused.MaskType
    queries = length = None
    if s.length is None:
        mask = masks.CAUSAL if s.causal else masks.NO_MASK
    else:
        mask = masks.PADDING_CAUSAL if s.causal else masks.PADDING
        length = jnp.clip(s.length, 0, s.keys).astype(jnp.int32)
        queries = jnp.full_like(length, q.shape[1])
    call = functools.partial(fused.dot_product_attention, scale=scale, mask_type=mask)
    out, lse = call(q, s.k, s.v, q_seqlen=queries, kv_seqlen=length, return_residual=True)
    out, lse = out.astype(jnp.float32), lse.transpose(0, 2, 1)  # lse: [B, N, T] -> [B, T, N]
    if length is None:
        return Partial(out, lse)
    none = (length == 0)[:, None, None]  # cuDNN's answer to no keys is not ours
    return Partial(jnp.where(none[..., None], 0.0, out), jnp.where(none, -jnp.inf, lse))
