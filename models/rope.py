"""Rotary position embeddings, as Llama checkpoints expect them (two halves, not pairs)."""

import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, Float, Positions
from star_jax.models.config import Rope


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Inverse frequencies in radians per position, float32, shape [head_dim / 2]."""
    inv_freq = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    inv_freq = inv_freq.astype(np.float32)
    if rope.rope_type == "default":
        return inv_freq
    if (
        rope.factor is None
        or rope.low_freq_factor is None
        or rope.high_freq_factor is None
        or rope.original_max_position_embeddings is None
    ):
        raise ValueError(f"{rope=} lacks a value")
    # Llama 3.1: wavelengths that fit the original context often enough stay as they are,
    # long ones are stretched by `factor`, those between are interpolated.
    turns = rope.original_max_position_embeddings * inv_freq / (2 * np.pi)
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = np.clip(smooth, 0.0, 1.0)
    return (smooth * inv_freq + (1 - smooth) * inv_freq / rope.factor).astype(np.float32)


def angles(positions: Positions, inv_freq: np.ndarray) -> Float[Array, "B T 1 half"]:
    """Rotation angles. Positions enter as float32: bfloat16 would round them past 256."""
    return (positions[..., None].astype(jnp.float32) * inv_freq)[:, :, None, :]


def apply(x: Float[Array, "B T heads H"], angle: Float[Array, "B T 1 half"]) -> Array:
    """Rotates (x[i], x[i + H/2]) by the i-th angle, in float32; returns x's dtype."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
