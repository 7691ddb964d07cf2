"""Rotary position embeddings, as checkpoints expect them (two halves, not pairs)."""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, Float, Positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding: `default`, `linear`, `llama3`, `yarn` or `longrope`.

    A field that the type does not have is None. cos and sin are multiplied by `attention_factor`.
    partial_rotary_factor: the first part of each head that turns; the rest has no positions.
    factors: what LongRoPE divides each frequency by.
    """

    rope_type: str
    theta: float
    partial_rotary_factor: float
    attention_factor: float
    factor: float | None = None
    original_max_position_embeddings: float | None = None
    low_freq_factor: float | None = None  # llama3, as is the next
    high_freq_factor: float | None = None
    beta_fast: float | None = None  # yarn, as are the next two
    beta_slow: float | None = None
    truncate: bool | None = None
    factors: tuple[float, ...] | None = None  # longrope


class Rotation(NamedTuple):
    """The rotation of each position by each frequency, in float32, scaled as the model says."""

    cos: Float[Array, "B T 1 half"]
    sin: Float[Array, "B T 1 half"]


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Inverse frequencies in radians per position, float32: one for each pair that turns."""
    turning = int(head_dim * rope.partial_rotary_factor)
    inv_freq = 1.0 / rope.theta ** (np.arange(0, turning, 2, dtype=np.float32) / turning)
    inv_freq = inv_freq.astype(np.float32)
    if rope.rope_type == "default":
        return inv_freq
    if rope.factors is not None:  # LongRoPE: Ding et al., 2024 (arXiv 2402.13753)
        return inv_freq / np.asarray(rope.factors, np.float32)
    factor = _given(rope.factor)
    if rope.rope_type == "linear":
        return inv_freq / np.float32(factor)
    find = {"llama3": _kept_by_llama3, "yarn": _kept_by_yarn}[rope.rope_type]
    kept = find(rope, inv_freq, turning)
    return (kept * inv_freq + (1 - kept) * inv_freq / factor).astype(np.float32)


def _kept_by_llama3(rope: Rope, inv_freq: np.ndarray, turning: int) -> np.ndarray:
    """Llama 3.1: 1 for a frequency that stays, 0 for one that is divided by the factor.

    Wavelengths that fit the original context often enough stay, long ones are stretched.
    """
    del turning
    low, high = _given(rope.low_freq_factor), _given(rope.high_freq_factor)
    turns = _given(rope.original_max_position_embeddings) * inv_freq / (2 * np.pi)
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def _kept_by_yarn(rope: Rope, inv_freq: np.ndarray, turning: int) -> np.ndarray:
    """YaRN: as Llama 3.1's, but linear in the frequency's index, not in the frequency.

    Source: Peng et al., 2023 (arXiv 2309.00071), with the rounding of its authors' code.
    """

    def index(turns: float) -> float:
        """The index of the frequency that turns so often in the original context."""
        period = _given(rope.original_max_position_embeddings) / (2 * math.pi * turns)
        return turning * math.log(period) / (2 * math.log(rope.theta))

    first, last = index(_given(rope.beta_fast)), index(_given(rope.beta_slow))
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, turning - 1)
    if first == last:
        last += 0.001  # a step, and no division by 0
    at = np.arange(len(inv_freq), dtype=np.float32)
    return 1 - np.clip((at - first) / (last - first), 0.0, 1.0)


def _given(value: float | None) -> float:
    if value is None:
        raise ValueError("a Rope lacks a value that its rope_type needs")
    return value


def rotation(positions: Positions, rope: Rope, head_dim: int) -> Rotation:
    """How far to turn. Positions enter as float32: bfloat16 would round them past 256."""
    angle = positions[..., None].astype(jnp.float32) * frequencies(rope, head_dim)
    angle = angle[:, :, None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if rope.attention_factor == 1.0:
        return Rotation(cos, sin)
    return Rotation(cos * rope.attention_factor, sin * rope.attention_factor)


def apply(x: Float[Array, "B T heads H"], rotation: Rotation | None) -> Array:
    """Rotates (x[i], x[i + half]) by the i-th of the angles, in float32; returns x's dtype.

    What lies beyond the two halves stays as it is.
    """
    if rotation is None:
        return x
    cos, sin = rotation
    half = cos.shape[-1]
    a, b, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1).astype(x.dtype)
