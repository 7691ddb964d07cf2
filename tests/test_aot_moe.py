"""Claims about experts, on the programs that eight GPUs would run: Qwen3-30B-A3B's widths.

Two devices share the experts. What is asserted is of each layer.
"""

import functools
import math

import aot
import jax
import jax.numpy as jnp
from programs import DTYPE, Programs, Shapes

from star_jax.models import moe

NAME = "Qwen3-30B-A3B"
# One layer decodes as the others do; of the last layer of a wave only keys and values are computed.
DECODE, WAVE = (Shapes(layers=n, tensor=2, model=NAME) for n in (1, 2))


@functools.cache
def compiled(name: str, shapes: Shapes) -> jax.stages.Compiled:
    return getattr(Programs(shapes), name)().lower().compile()


def program(name: str, shapes: Shapes) -> aot.Program:
    return aot.Program(compiled(name, shapes))


def sizes() -> tuple[int, int]:
    """Elements of one of an expert's matrices, and of all these on one device."""
    config = DECODE.config
    assert config.experts is not None
    one = config.hidden_size * config.experts.intermediate_size
    return one, one * config.experts.count // DECODE.tensor


def test_experts_add_no_collective_to_those_of_an_mlp() -> None:
    """Two sums a layer and one for the embedding, and what attention has."""
    decode, wave = program("decode", DECODE), program("first_wave", WAVE)
    assert decode.collectives() == {"all-reduce": 2 + 1, "all-gather": 1 + 1}
    assert wave.collectives() == {"collective-broadcast": 2, "all-reduce": 2 + 1}


def test_decoding_writes_nothing_as_large_as_an_experts_matrix() -> None:
    """The weights are gathered within the kernels that multiply; there is no loop over experts."""
    one, _ = sizes()
    decode = program("decode", DECODE)
    assert max(i.elements for i in decode.writes(1)) < one // 4
    assert len(decode.while_bodies()) == 1  # over tokens


def test_a_wave_copies_no_weight_and_its_memory_is_that_of_what_experts_return() -> None:
    _, every = sizes()
    config, wave = WAVE.config, program("first_wave", WAVE)
    assert config.experts is not None
    assert wave.moves(every) == []
    returned = WAVE.block * config.experts.per_token * config.hidden_size
    assert max(i.elements for i in wave.writes(1)) == returned
    memory = compiled("first_wave", WAVE).memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 1.75 * 2 * returned


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
