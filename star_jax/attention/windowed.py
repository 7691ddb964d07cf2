"""Attention of layers with windows: what a window reaches before a block comes as a halo."""

from collections.abc import Callable

import jax.numpy as jnp

from star_jax.array_typing import Array, Keys, PerRow, Queries, Values
from star_jax.attention.partial import Partial
from star_jax.attention.segment import Segment

ROUND = 8  # keys: copies by TMA want a multiple of it


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
    reach = window - 1
    spare = -reach % ROUND  # or a kernel that wants this multiple would copy all keys once more
    filled = ((0, 0), (spare, 0), (0, 0), (0, 0))

    def join(early: Array, own: Array) -> Array:
        return jnp.concatenate([jnp.pad(early, filled), own], axis=1)

    offset = jnp.full_like(starts, spare + reach)
    begin = spare + jnp.maximum(reach - starts, 0)
    seen = Segment(
        join(before[0], k),
        join(before[1], v),
        causal=True,
        offset=offset,
        window=window,
        begin=begin,
    )
    return attend(q, [seen])
