"""How much phase 1 computes on one device: FLOPs of matmuls, from what each token sees.

On several devices all take the strided rows of all blocks over their own block, in the first wave
too: what lies behind a row is masked. For that wave it doubles the correction's far keys.
"""

import math

from star_jax.models import DecoderConfig
from star_jax.prefill.kinds import Kind


def flops(config: DecoderConfig, attention: Kind, length: int) -> int:
    """The work of so many tokens: projections, feed-forward, attention, and its correction.

    As computed, but for whole tiles: of a causal mask only what is seen counts. Of the last layer
    only keys and values are computed.
    """
    D, F, H = config.hidden_size, config.intermediate_size, config.head_dim
    N, K = config.num_heads, config.num_kv_heads
    kv, rest = 2 * D * 2 * K * H, 2 * (2 * D * N * H + 3 * D * F)
    layers = config.num_layers
    tokens = length * (layers * kv + (layers - 1) * rest)
    pair = 4 * N * H  # a score, and a value that is added
    return tokens + (layers - 1) * pair * math.ceil(pairs(attention, length))


def pairs(attention: Kind, length: int) -> float:
    """Pairs of a query and a key, each a score and a value: all work of attention in these."""
    if attention.is_exact:
        return length * (length + 1) / 2
    block, anchor = attention.sizes["block_size"], attention.sizes["anchor_size"]
    mending = attention.mending
    halo, stride = int(mending.get("halo", 0)), int(mending.get("stride", 0))
    has_tangent = mending.get("correction") in ("tangent", "both")
    total = 0.0
    for start in range(0, length, block):
        size = min(block, length - start)
        total += size * (size + 1) / 2
        if not start:
            continue
        before = start - halo
        total += size * (halo + min(anchor, before))
        if stride:
            rows = -(-size // stride)
            # A tangent averages keys too, for which scores are computed again; and each row
            # takes one more score for each strided row of its block.
            total += rows * max(before - anchor, 0) * (2 if has_tangent else 1)
            total += size * rows / 2 if has_tangent else 0
    return total
