"""Attention of layers with windows over a part of a text, and over the keys before it."""

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

    before: the keys and values just before the part, at least window - 1 of them. Those before the
      first token of the text are not seen, whatever they are.
    starts: the position of the part's first token.
    """
    offset = jnp.full_like(starts, before[0].shape[1])
    k, v = (jnp.concatenate(x, axis=1) for x in zip(before, (k, v), strict=True))
    begin = jnp.maximum(offset - starts, 0)
    return attend(q, [Segment(k, v, causal=True, offset=offset, window=window, begin=begin)])
