"""One attention function, and the table of its implementations."""

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.array_typing import Queries
from star_jax.attention import device as device_lib
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment

# Modules of this package, imported when used: each backend needs a part of JAX that may be
# missing or may warn where another one is used. Each has
#   attend(q, segments, *, scale, soft_cap) -> Partial
#                                    as `partial_attention`, of which it gets what was checked:
#                                    at least one query and one segment, and a key in each segment
#   refuses_device(device) -> str            why it cannot run there; empty if it can
#   refuses(dtype, head_dim, device) -> str  why it cannot serve such arrays; empty if it can
#   refuses_layer(window, soft_cap) -> str   why it cannot serve such a layer; empty if it can
# Those that average keys beside values have `attend(..., with_keys)`.
IMPLEMENTATIONS = ("cudnn", "mosaic", "reference", "triton", "xla")
AVERAGE_KEYS = ("reference", "xla")
# What serves keys and values in 8 bits where each of them is asked for.
COMPRESSED = {"mosaic": "triton", "reference": "reference", "triton": "triton", "xla": "xla"}


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
    never replaced by another, but for layers that it does not serve: see `for_layer`. cuDNN is
    taken by name alone, for as long as none was measured.

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


def for_layer(implementation: str, *, window: int | None, soft_cap: float | None) -> str:
    """The implementation to use for a layer with this window and this soft cap.

    That is the given one, or XLA's operations where it does not serve such a layer. This holds for
    one that was asked for by name, too: it still serves the other layers of the model.
    """
    _check_name(implementation)
    return "xla" if _module(implementation).refuses_layer(window, soft_cap) else implementation


def for_compressed(implementation: str, *, with_keys: bool = False) -> str:
    """The implementation to use for keys and values in 8 bits: Triton's kernels for Mosaic's.

    with_keys: averages keys, which no kernel does where they are in 8 bits.

    Raises:
      NotImplementedError: none stands in for it.
    """
    _check_name(implementation)
    if implementation not in COMPRESSED:
        raise NotImplementedError(
            f"{implementation=} has no attention over keys and values in 8 bits; "
            f"{', '.join(sorted(set(COMPRESSED.values())))} have"
        )
    serving = COMPRESSED[implementation]
    return serving if not with_keys or serving in AVERAGE_KEYS else "xla"


def implementations(device: jax.Device | None = None) -> dict[str, str]:
    """For each implementation why it cannot run on `device`, by default the first; "" if it can."""
    found = jax.devices()[0] if device is None else device
    return {name: _refusal(name, found, None, None) for name in IMPLEMENTATIONS}


def partial_attention(
    q: Queries,
    segments: Sequence[Segment],
    *,
    scale: float,
    soft_cap: float | None = None,
    implementation: str,
    with_keys: bool = False,
) -> Partial:
    """Attention of q over the keys of all segments, as one partial.

    Args:
      q: [B, T, N, H]; N is a multiple of the number K of key/value heads.
      segments: disjoint keys, [B, S, K, H] each, read where they lie. See `Segment` for who sees
        which of them.
      scale: what scores are multiplied with.
      soft_cap: if there is one, scores become cap * tanh(score / cap) before keys are hidden.
      implementation: a name from `IMPLEMENTATIONS`; see `resolve`.
      with_keys: averages the keys, too, with the same weights.

    Returns:
      `Partial` in float32. A query that sees no key gets (0, -inf). With keys, `out` holds their
      average behind that of the values: [B, T, N, 2H].

    Raises:
      ValueError: arguments that do not fit each other.
      NotImplementedError: the implementation does not serve them; it says why.
    """
    _check_name(implementation)
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"{soft_cap=} must be above 0")
    for segment in segments:
        segment.check(q)
    if len(heads := {s.k.shape[2] for s in segments}) > 1:
        raise ValueError(f"segments of {sorted(heads)} key heads: they must have the same number")
    # No implementation sees an empty segment, or an offset that says nothing.
    some = [s if s.is_ordered else dataclasses.replace(s, offset=None) for s in segments if s.keys]
    if not some or not q.shape[1]:
        wide = (*q.shape[:3], q.shape[3] * (1 + with_keys))
        return Partial(jnp.zeros(wide, jnp.float32), jnp.full(wide[:3], -jnp.inf))
    if not all(s.is_plain for s in some):
        implementation = for_compressed(implementation, with_keys=with_keys)
    attend = functools.partial(_module(implementation).attend, scale=scale, soft_cap=soft_cap)
    if not with_keys:
        return attend(q, some)
    if implementation in AVERAGE_KEYS:
        return attend(q, some, with_keys=True)
    values, keys = attend(q, some), attend(q, [dataclasses.replace(s, v=s.k) for s in some])
    return values._replace(out=jnp.concatenate([values.out, keys.out], axis=-1))


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
