"""What the GPU kernels of both backends, and what is asked of cuDNN, have in common."""

import math

import jax

from star_jax.array_typing import Keys, Queries, Values
from star_jax.attention import device as device_lib

DTYPES = ("bfloat16", "float16")

# Up to this many rows (a query token for each head of a group), keys are split over the GPU:
# there are too few tiles of queries to fill it.
DECODE_ROWS = 1024

# Exponentials are powers of two, for which GPUs have an instruction.
LOG2E = math.log2(math.e)
# The highest score of a query that has seen no key. Finite, so that a hidden key, whose score
# is -inf, weighs 2^(-inf - LOWEST) = 0: with -inf that would be NaN.
LOWEST = -1e30


def too_old(device: jax.Device, *, name: str) -> str:
    """Why `name` cannot run on this device, if that is no NVIDIA GPU from sm_80 on; or empty."""
    found = device_lib.capability(device)
    if found is None or found < (8, 0):
        return f"{name} needs an NVIDIA GPU from sm_80 on; this is {device_lib.name(device)}"
    return ""


def check(q: Queries, k: Keys, v: Values, *, scale: float, name: str) -> None:
    """Raises NotImplementedError for arrays of several dtypes, and a scale that is not positive."""
    if not q.dtype == k.dtype == v.dtype:
        raise NotImplementedError(f"{name} with {q.dtype=}, {k.dtype=}, {v.dtype=}: one dtype")
    if scale <= 0:  # scores are compared before they are scaled
        raise NotImplementedError(f"{scale=} must be positive")
