"""Attention of layers with windows: what a window reaches before a block comes as a halo."""

from collections.abc import Callable

import jax.numpy as jnp

from star_jax.array_typing import Array, Keys, PerRow, Queries, Values
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment


def attend_windowed(
    q: Queries,
    k: Keys,
    v: Values,
    before: tuple[Array, Array],
    *,
    starts: PerRow,
    window: int,
    attend: Callable[[Queries, list[Segment]], Partial],
) -> Partial:
    """Attention of a part of a text over its own keys, and over those that its window reaches.

    before: the window - 1 keys and values before the part, [B, window - 1, K, H] each; those
      before the first token of the text are not seen, whatever they are.
    starts: the position of the part's first token.
    """
    halo = jnp.full_like(starts, window - 1)
    k, v = (jnp.concatenate(x, axis=1) for x in zip(before, (k, v), strict=True))
    begin = jnp.maximum(halo - starts, 0)
    return attend(q, [Segment(k, v, causal=True, offset=halo, window=window, begin=begin)])
