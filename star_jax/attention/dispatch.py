"""One attention function, and the table of its implementations."""

import importlib
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention import device as device_lib
from star_jax.attention.partial import Partial

# Modules of this package, imported when used: each backend needs a part of JAX that may be
# missing or may warn where another one is used. Each has
#   partial_attention(...)           as below
#   refuses_device(device) -> str            why it cannot run there; empty if it can
#   refuses(dtype, head_dim, device) -> str  why it cannot serve such arrays; empty if it can
IMPLEMENTATIONS = ("cudnn", "mosaic", "reference", "triton", "xla")


def resolve(
    implementation: str | None,
    mesh: Mesh,
    *,
    dtype: str | None = None,
    head_dim: int | None = None,
) -> str:
    """The implementation to use on the devices of `mesh`; None picks the best one there is.

    That is Mosaic on Hopper, Triton on other NVIDIA GPUs, and XLA's operations elsewhere; also
    where a kernel does not serve the dtype or the head dim, if they are given. A named one is
    never replaced by another. cuDNN is taken by name alone, for as long as none was measured.

    Raises:
      ValueError: there is no such implementation.
      NotImplementedError: it cannot run on these devices, or not such arrays; it says why.
    """
    device = mesh.devices.flat[0]
    if implementation is None:
        return next(i for i in _best_first(device) if not _refusal(i, device, dtype, head_dim))
    _check_name(implementation)
    if reason := _refusal(implementation, device, dtype, head_dim):
        raise NotImplementedError(f"{implementation=}: {reason}")
    return implementation


def implementations(device: jax.Device | None = None) -> dict[str, str]:
    """For each implementation why it cannot run on `device`, by default the first; "" if it can."""
    found = jax.devices()[0] if device is None else device
    return {name: _refusal(name, found, None, None) for name in IMPLEMENTATIONS}


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
    implementation: str,
) -> Partial:
    """Attention of q over the keys [prefix | k], as a partial.

    Args:
      q: [B, T, N, H]; N is a multiple of the number K of key/value heads.
      k, v: [B, S, K, H].
      causal: query i sees key j of `k` only if j <= i + q_offset. The prefix is not causal.
      q_offset: [B], in keys; 0 if None.
      kv_length: [B], how many keys of `k` are valid; all if None. The others are finite.
      prefix_k, prefix_v: [B, S', K, H], a second segment, read where it lies; or None.
      prefix_length: [B], how many keys of the prefix are valid; all if None.
      scale: what scores are multiplied with.
      implementation: a name from `IMPLEMENTATIONS`; see `resolve`.

    Returns:
      `Partial` in float32. A query that sees no key gets (0, -inf).

    Raises:
      ValueError: arguments that do not fit each other.
      NotImplementedError: the implementation does not serve them; it says why.
    """
    _check_name(implementation)
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if (prefix_k is None) != (prefix_v is None):
        raise ValueError("prefix_k and prefix_v come together or not at all")
    if prefix_k is None and prefix_length is not None:
        raise ValueError("prefix_length without a prefix")
    # No implementation sees an empty segment.
    if prefix_k is not None and not prefix_k.shape[1]:
        prefix_k = prefix_v = prefix_length = None
    elif prefix_k is not None and prefix_v is not None and not k.shape[1]:
        k, v, kv_length, causal = prefix_k, prefix_v, prefix_length, False
        prefix_k = prefix_v = prefix_length = None
    if not k.shape[1] or not q.shape[1]:
        return Partial(jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -jnp.inf))
    return _module(implementation).partial_attention(
        q,
        k,
        v,
        causal=causal,
        q_offset=q_offset if causal else None,
        kv_length=kv_length,
        prefix_k=prefix_k,
        prefix_v=prefix_v,
        prefix_length=prefix_length,
        scale=scale,
    )


def _best_first(device: jax.Device) -> tuple[str, ...]:
    return ("xla",) if device_lib.capability(device) is None else ("mosaic", "triton", "xla")


def _refusal(name: str, device: jax.Device, dtype: str | None, head_dim: int | None) -> str:
    module = _module(name)
    if reason := module.refuses_device(device):
        return reason
    return "" if dtype is None or head_dim is None else module.refuses(dtype, head_dim, device)


def _check_name(implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{implementation=} is not one of {list(IMPLEMENTATIONS)}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"star_jax.attention.{name}")
