"""What attention is: partials, their merge, and the implementations."""

from star_jax.attention.dispatch import (
    IMPLEMENTATIONS,
    for_compressed,
    for_layer,
    implementations,
    partial_attention,
    resolve,
)
from star_jax.attention.partial import Partial, merge, merge_over_axis
from star_jax.attention.segment import Segment

__all__ = [
    "IMPLEMENTATIONS",
    "Partial",
    "Segment",
    "for_compressed",
    "for_layer",
    "implementations",
    "merge",
    "merge_over_axis",
    "partial_attention",
    "resolve",
]
