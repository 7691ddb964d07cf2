"""Our kernels for Hopper, in Pallas Mosaic GPU."""

from collections.abc import Sequence
from typing import Any

import jax

from star_jax.array_typing import Queries
from star_jax.attention import device as device_lib
from star_jax.attention import kernels, xla
from star_jax.attention.mosaic import assembler
from star_jax.attention.partial import Partial, merge
from star_jax.attention.segment import Segment

HEAD_DIMS = (64, 96, 128, 256)
JAX = (0, 11)  # the first version whose Mosaic has what the kernels use
NEWER = ".".join(map(str, JAX))

_MOST_BLOCKS = 65535  # of CUDA's grid, in any direction but the first


def refuses_device(device: jax.Device) -> str:
    """Why it cannot run on this device; empty if it can."""
    if device_lib.capability(device) != (9, 0):
        return f"mosaic needs a Hopper GPU (sm_90); this is {device_lib.name(device)}"
    if jax.version.__version_info__[:2] < JAX:
        return f"mosaic needs JAX {NEWER} or newer; this is {jax.__version__}"
    return kernels.counts_in_64_bits("mosaic") or assembler.refusal()


def refuses(dtype: str, head_dim: int, device: jax.Device | None = None) -> str:
    """Why it cannot serve such arrays, on any GPU; empty if it can."""
    if dtype not in kernels.DTYPES:
        return f"mosaic has no kernel for {dtype}, only for {' and '.join(kernels.DTYPES)}"
    if head_dim not in HEAD_DIMS:
        return f"mosaic has no kernel for {head_dim=}, only for {HEAD_DIMS}"
    return ""


def refuses_layer(window: int | None, soft_cap: float | None) -> str:
    """It serves every layer; a window in the last segment alone."""
    return ""


def attend(
    q: Queries,
    segments: Sequence[Segment],
    *,
    scale: float,
    soft_cap: float | None,
    interpret: Any = None,
) -> Partial:
    """See `dispatch.partial_attention`.

    `interpret`, Pallas's parameters for that, runs the kernels on CPUs, slowly.
    """
    head_dim = q.shape[-1]
    if reason := refuses(str(q.dtype), head_dim):
        raise NotImplementedError(reason)
    if not all(s.is_plain for s in segments):
        raise NotImplementedError("mosaic has no kernel for keys in 8 bits; triton has")
    prefix, own = kernels.prefix_and_own(q, segments, scale=scale, name="mosaic")
    if jax.version.__version_info__[:2] < JAX:
        here = f"JAX {jax.__version__}, on {jax.default_backend()} by default"
        raise NotImplementedError(
            f"mosaic needs a Hopper GPU and JAX {NEWER} or newer; this is {here}"
        )
    # Imported when used: on older versions of JAX what these modules need is not there.
    from star_jax.attention.mosaic import decode, prefill

    if interpret is None:
        q = device_lib.only_on_cuda(q, implementation="mosaic")
    how: dict[str, Any] = {"score": kernels.Score(scale, soft_cap), "interpret": interpret}
    if not kernels.is_few(q, prefix, own):
        if (blocks := q.shape[0] * own.k.shape[2]) > _MOST_BLOCKS:
            raise NotImplementedError(
                f"mosaic with {q.shape[0]} rows of {own.k.shape[2]} key heads: {blocks} is above "
                f"{_MOST_BLOCKS}, of which a GPU launches no more; ask fewer questions at once"
            )
        return prefill.attend(q, prefix, own, tuning=prefill.DEFAULTS[head_dim], **how)
    few = decode.DEFAULTS[head_dim]
    first, head = kernels.without_head(own, few.keys)
    part = decode.attend(q, own, first, tuning=few, **how)
    if head is None:
        return part
    return merge(part, xla.attend(q, [head], scale=scale, soft_cap=soft_cap))
