"""Partial attention, and the one operation on it: merging partials over disjoint keys.

A partial is attention over some of the keys: the normalised output, and the natural
logarithm of the sum of the exponentials of the scores. Two partials merge exactly:

    lse = logaddexp(lse_a, lse_b)
    out = out_a * exp(lse_a - lse) + out_b * exp(lse_b - lse)

No keys at all is out = 0, lse = -inf, the identity.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, LogSumExp

Method = Literal["psum", "gather"]


class Partial(NamedTuple):
    """Attention over some of the keys, in float32."""

    out: Array  # [B, T, N, H], normalised over these keys
    lse: Array  # [B, T, N], natural logarithm


def merge(*parts: Partial) -> Partial:
    """Merges partials over disjoint sets of keys. Safe for any gap between their LSEs."""
    top = _finite(jnp.stack([part.lse for part in parts]).max(axis=0))
    weights = [jnp.exp(part.lse - top) for part in parts]  # each in 0..1
    numerator = jnp.zeros_like(parts[0].out)
    for weight, part in zip(weights, parts, strict=True):
        numerator += weight[..., None] * part.out
    return _normalise(numerator, sum(weights, start=jnp.zeros_like(top)), top)


def merge_stacked(parts: Partial) -> Partial:
    """`merge` of partials that lie along the first axis of one array each.

    parts.out: [P, B, T, N, H]; parts.lse: [P, B, T, N].
    """
    if parts.lse.shape[0] == 1:  # of a short cache, or a tail
        return Partial(parts.out[0], parts.lse[0])
    top = _finite(parts.lse.max(axis=0))
    weight = jnp.exp(parts.lse - top)  # each in 0..1
    total = weight.sum(axis=0)
    none = total == 0
    # Normalised before the sum: on a GPU that is a kernel of its own, with nothing left after it.
    weight /= jnp.where(none, 1.0, total)
    lse = jnp.where(none, -jnp.inf, top + jnp.log(total))
    return Partial((weight[..., None] * parts.out).sum(axis=0), lse)


def merge_over_axis(part: Partial, axis: str, *, method: Method) -> Partial:
    """Merges the partials that the devices along a mesh axis hold; all get the result.

    `psum` costs two collectives whose traffic does not depend on the number of devices
    (for queries), `gather` one, packed, with the least latency (for decoding).
    """
    if jax.lax.axis_size(axis) == 1:
        return part
    if method == "gather":
        packed = jnp.concatenate([part.out, part.lse[..., None]], axis=-1)  # [B, T, N, H + 1]
        packed = jax.lax.all_gather(packed, axis)  # [B, T, N, H + 1] -> [C, B, T, N, H + 1]
        return merge_stacked(Partial(packed[..., :-1], packed[..., -1]))
    if method == "psum":
        top = _finite(jax.lax.pmax(part.lse, axis))  # [B, T, N], the highest of all devices
        weight = jnp.exp(part.lse - top)[..., None]
        packed = jnp.concatenate([weight * part.out, weight], axis=-1)  # [B, T, N, H + 1]
        packed = jax.lax.psum(packed, axis)  # numerator and denominator in one
        return _normalise(packed[..., :-1], packed[..., -1], top)
    raise ValueError(f"{method=} must be 'psum' or 'gather'")


def _finite(top: LogSumExp) -> LogSumExp:
    """Where there are no keys anywhere, 0: -inf minus -inf would be NaN."""
    return jnp.where(top == -jnp.inf, 0.0, top)


def _normalise(numerator: Array, denominator: Array, top: Array) -> Partial:
    none = denominator == 0
    out = numerator / jnp.where(none, 1.0, denominator)[..., None]
    return Partial(out, jnp.where(none, -jnp.inf, top + jnp.log(denominator)))
