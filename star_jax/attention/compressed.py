"""Keys and values in 8 bits, as int8 or as fp8 (E4M3), and the scales that go with them.

Each token has two scales for each head, of its key and of its value. A few features of keys are
far larger than the others in some models, and stay so from key to key (Liu et al., "KIVI", ICML
2024, section 3). So keys are first divided, feature by feature, by the largest number among the
keys that are compressed together. A scale for each feature and some 64 keys, which is KIVI's, is
no better than that, and worse where a group holds the first token of a text: that key is unlike
all others, and most attention goes there. `tools/cache_study.py` compares them.

Scales are of the model's dtype, which is also what is computed in. They are rounded up, and numbers
are divided by them as they were rounded: int8 is off by half a step at most, however small it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Int, Keys, Values

DTYPES: dict[str, Any] = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
LARGEST = {jnp.dtype(jnp.int8): 127, jnp.dtype(jnp.float8_e4m3fn): 448}


class Scales(NamedTuple):
    """What numbers in 8 bits are multiplied with: keys by two of these.

    Keys that were compressed together, a group, follow each other; all groups are as large.
    """

    k: Array  # [B, S, K]
    v: Array  # [B, S, K]
    feature: Array  # [B, groups, K, H], of keys


def compress(k: Keys, v: Values, dtype: Any) -> tuple[Array, Array, Scales]:
    """Keys and values in 8 bits, and their scales: of one group."""
    feature = jnp.abs(k).max(axis=1, keepdims=True)
    small_k, scale_k = _compress(_divide(k, feature), dtype, k.dtype)
    small_v, scale_v = _compress(v.astype(jnp.float32), dtype, v.dtype)
    return small_k, small_v, Scales(scale_k, scale_v, feature)


def _compress(x: Array, dtype: Any, scale_dtype: Any) -> tuple[Array, Array]:
    """The numbers in 8 bits, and a scale for each row of features."""
    scale = _rounded_up(jnp.abs(x).max(axis=-1) / LARGEST[jnp.dtype(dtype)], scale_dtype)
    divided = _divide(x, scale[..., None])
    if jnp.issubdtype(dtype, jnp.integer):
        divided = jnp.round(divided)
    return divided.astype(dtype), scale


def _rounded_up(x: Array, dtype: Any) -> Array:
    """Numbers of the dtype that are as large, or by one or two steps larger; 0 stays."""
    info = jnp.finfo(dtype)
    half_a_step = x * (float(info.eps) / 2) + float(info.smallest_subnormal) / 2
    return jnp.where(x == 0, 0, x + half_a_step).astype(dtype)


def _divide(x: Array, scale: Array) -> Array:
    return x.astype(jnp.float32) / jnp.where(scale == 0, 1, scale).astype(jnp.float32)


def tile(k: Array, v: Array, scales: Scales, start: Array | int, size: int) -> tuple[Keys, Values]:
    """`size` keys and values from `start` on, a multiple of `size` or the last, as they were.

    k, v: [B, S, K, H] in 8 bits.
    """
    keys, groups = k.shape[1], scales.feature.shape[1]
    group = keys // groups

    def some(x: Array, start: Array | int = start, size: int = size) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

    if group % size == 0:
        feature = some(scales.feature, start // group, 1)
    elif size % group == 0:
        feature = jnp.repeat(some(scales.feature, start // group, size // group), group, axis=1)
    else:  # it does not end where a group does
        feature = scales.feature[:, (start + jnp.arange(size)) // group]
    return (
        _multiply(some(k), some(scales.k), feature),
        _multiply(some(v), some(scales.v)),
    )


def take(k: Array, v: Array, scales: Scales, at: Int[Array, "B some"]) -> tuple[Keys, Values]:
    """Keys and values at these places of each row, as they were. k, v: [B, S, K, H] in 8 bits."""
    group = k.shape[1] // scales.feature.shape[1]

    def some(x: Array, at: Array = at) -> Array:
        return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)

    feature = some(scales.feature, at // group)
    return (
        _multiply(some(k), some(scales.k), feature),
        _multiply(some(v), some(scales.v)),
    )


def _multiply(small: Array, scale: Array, feature: Array | None = None) -> Array:
    """In float32, and then in the dtype of the scales."""
    x = small.astype(jnp.float32) * scale[..., None].astype(jnp.float32)
    if feature is not None:
        x = x * feature.astype(jnp.float32)
    return x.astype(scale.dtype)
