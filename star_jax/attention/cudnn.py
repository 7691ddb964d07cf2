"""Attention by cuDNN, on NVIDIA GPUs: a peer to measure by, taken by name.

cuDNN knows one segment of keys and aligns its causal mask at the top left, so that a prefix is
a second call and a merge, and offsets are refused. JAX's public function rounds the LSE to the
inputs' dtype, which no merge survives; the one behind it, called here, gives it in float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention import device as device_lib
from star_jax.attention import kernels
from star_jax.attention.partial import Partial, merge


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
    """See `dispatch.partial_attention`. The output is rounded to the dtype of q on its way."""
    if reason := refuses(str(q.dtype), q.shape[-1]):
        raise NotImplementedError(reason)
    if q_offset is not None:
        raise NotImplementedError("q_offset with cudnn, whose causal mask begins at the first key")
    q = device_lib.only_on_cuda(q, implementation="cudnn")
    part = _one_segment(q, k, v, causal=causal, length=kv_length, scale=scale)
    if prefix_k is None or prefix_v is None:
        return part
    prefix = _one_segment(q, prefix_k, prefix_v, causal=False, length=prefix_length, scale=scale)
    return merge(prefix, part)


def _one_segment(
    q: Queries, k: Keys, v: Values, *, causal: bool, length: PerRow | None, scale: float
) -> Partial:
    try:
        fused.check_cudnn_version()
    except RuntimeError as e:  # while tracing, before it is known for which devices
        here = f"the default device here is a {jax.default_backend()}"
        raise NotImplementedError(f"cudnn runs on NVIDIA GPUs, with cuDNN; {here}: {e}") from e
    masks = fused.MaskType
    queries = None
    if length is None:
        mask = masks.CAUSAL if causal else masks.NO_MASK
    else:
        mask = masks.PADDING_CAUSAL if causal else masks.PADDING
        length = jnp.clip(length, 0, k.shape[1]).astype(jnp.int32)
        queries = jnp.full_like(length, q.shape[1])
    call = functools.partial(fused.dot_product_attention, scale=scale, mask_type=mask)
    out, lse = call(q, k, v, q_seqlen=queries, kv_seqlen=length, return_residual=True)
    out, lse = out.astype(jnp.float32), lse.transpose(0, 2, 1)  # lse: [B, N, T] -> [B, T, N]
    if length is None:
        return Partial(out, lse)
    none = (length == 0)[:, None, None]  # cuDNN's answer to no keys is not ours
    return Partial(jnp.where(none[..., None], 0.0, out), jnp.where(none, -jnp.inf, lse))
