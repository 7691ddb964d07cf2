"""Our kernels for Hopper, in Pallas Mosaic GPU."""

from typing import Any

import jax

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention import device as device_lib
from star_jax.attention import kernels
from star_jax.attention.mosaic import assembler
from star_jax.attention.partial import Partial

HEAD_DIMS = (64, 96, 128, 256)
JAX = (0, 11)  # the first version whose Mosaic has what the kernels use
NEWER = ".".join(map(str, JAX))


def refuses_device(device: jax.Device) -> str:
    """Why it cannot run on this device; empty if it can."""
    if device_lib.capability(device) != (9, 0):
        return f"mosaic needs a Hopper GPU (sm_90); this is {device_lib.name(device)}"
    if jax.version.__version_info__[:2] < JAX:
        return f"mosaic needs JAX {NEWER} or newer; this is {jax.__version__}"
    return assembler.refusal()


def refuses(dtype: str, head_dim: int, device: jax.Device | None = None) -> str:
    """Why it cannot serve such arrays, on any GPU; empty if it can."""
    if dtype not in kernels.DTYPES:
        return f"mosaic has no kernel for {dtype}, only for {' and '.join(kernels.DTYPES)}"
    if head_dim not in HEAD_DIMS:
        return f"mosaic has no kernel for {head_dim=}, only for {HEAD_DIMS}"
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
    interpret: Any = None,
) -> Partial:
    """See `dispatch.partial_attention`; there is at least one query, and a key in each segment.

    `interpret`, Pallas's parameters for that, runs the kernels on CPUs, slowly.
    """
    if reason := refuses(str(q.dtype), q.shape[-1]):
        raise NotImplementedError(reason)
    kernels.check(q, k, v, scale=scale, name="mosaic")
    if jax.version.__version_info__[:2] < JAX:
        here = f"JAX {jax.__version__}, on {jax.default_backend()} by default"
        raise NotImplementedError(
            f"mosaic needs a Hopper GPU and JAX {NEWER} or newer; this is {here}"
        )
    # Imported when used: on older versions of JAX what these modules need is not there.
    from star_jax.attention.mosaic import decode, prefill

    if interpret is None:
        q = device_lib.only_on_cuda(q, implementation="mosaic")
    rows = q.shape[1] * (q.shape[2] // k.shape[2])
    if not causal and prefix_k is None and rows <= kernels.DECODE_ROWS:
        return decode.attend(q, k, v, kv_length=kv_length, scale=scale, interpret=interpret)
    return prefill.attend(
        q,
        k,
        v,
        causal=causal,
        q_offset=q_offset,
        kv_length=kv_length,
        prefix_k=prefix_k,
        prefix_v=prefix_v,
        prefix_length=prefix_length,
        scale=scale,
        interpret=interpret,
    )
