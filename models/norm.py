"""Root-mean-square normalisation."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.array_typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """How a model normalises, whatever the weights.

    plus_one: they are stored less 1. in_float32: x is scaled before it is rounded to its dtype, and
    not after that.
    """

    eps: float
    plus_one: bool
    in_float32: bool

    def __call__(self, x: Array, weight: nnx.Param | None, *, axis: str | None = None) -> Array:
        """Over the axes that the weight has, in float32; x itself where there is no weight.

        Where the weight has heads, `axis` names the mesh axis that divides them.
        """
        if weight is None:
            return x
        scale = weight[...]
        y = x.astype(jnp.float32)
        mean = jnp.mean(y * y, axis=tuple(range(-scale.ndim, 0)), keepdims=True)
        if scale.ndim > 1 and axis is not None and jax.lax.axis_size(axis) > 1:
            # [B, T, 1, 1]; exact, as each device has as many heads, and repeats as many
            mean = jax.lax.pmean(mean, axis)
        y = y * jax.lax.rsqrt(mean + self.eps)
        if not self.in_float32:
            y = y.astype(x.dtype)
        scale = scale.astype(y.dtype)
        return (y * (1 + scale if self.plus_one else scale)).astype(x.dtype)
