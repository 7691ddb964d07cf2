"""Claims about experts, on the programs that eight GPUs would run: Qwen3-30B-A3B's widths.

Two devices share the experts. What is asserted is of each layer. Waves are in `tests/large`.
"""

import functools
import math

import aot
import jax.numpy as jnp
from programs import DTYPE, Programs, Shapes

from star_jax.models import moe

NAME = "Qwen3-30B-A3B"
DECODE = Shapes(layers=1, tensor=2, model=NAME)  # it decodes as the others do


@functools.cache
def decode() -> aot.Program:
    return aot.Program(Programs(DECODE).decode().lower().compile())


def test_experts_add_no_collective_to_those_of_an_mlp() -> None:
    """Two sums a layer and one for the embedding, and what attention has."""
    assert decode().collectives() == {"all-reduce": 2 + 1, "all-gather": 1 + 1}


def test_decoding_writes_nothing_as_large_as_an_experts_matrix() -> None:
    """The weights are gathered within the kernels that multiply; there is no loop over experts."""
    config = DECODE.config
    assert config.experts is not None
    one = config.hidden_size * config.experts.intermediate_size
    assert max(i.elements for i in decode().writes(1)) < one // 4
    assert len(decode().while_bodies()) == 1  # over tokens


def test_a_block_of_64k_is_computed_in_parts() -> None:
    """What experts return takes memory for 16K tokens, however many there are."""
    config, mesh = DECODE.config, Programs(DECODE).mesh
    experts, D = config.experts, config.hidden_size
    assert experts is not None
    layer = moe.MoE(
        config, experts, "mlp", lambda name, shape, axes: aot.abstract(shape, DTYPE, mesh)
    )
    parts = aot.compile(
        lambda m, x: m(x, None), layer, aot.abstract((1, 65536, D), jnp.bfloat16, mesh)
    )
    returned = 16384 * experts.per_token * D
    assert max(i.elements for i in aot.Program(parts).writes(1)) == returned
    assert math.prod((65536, D)) < returned
