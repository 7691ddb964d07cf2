"""Experts in a wave of phase 1, as `tests/test_aot_moe.py` has them in decoding."""

import functools

import aot
import jax
from programs import Programs, Shapes

# Of the last layer only keys and values are computed.
WAVE = Shapes(layers=2, tensor=2, model="Qwen3-30B-A3B")


@functools.cache
def compiled() -> jax.stages.Compiled:
    return Programs(WAVE).first_wave().lower().compile()


def test_experts_add_no_collective_to_those_of_an_mlp() -> None:
    """Two sums a layer and one for the embedding, and what attention has."""
    wave = aot.Program(compiled())
    assert wave.collectives() == {"collective-broadcast": 2, "all-reduce": 2 + 1}


def test_a_wave_copies_no_weight_and_its_memory_is_that_of_what_experts_return() -> None:
    config, wave = WAVE.config, aot.Program(compiled())
    assert config.experts is not None
    one = config.hidden_size * config.experts.intermediate_size
    assert wave.moves(one * config.experts.count // WAVE.tensor) == []
    returned = WAVE.block * config.experts.per_token * config.hidden_size
    assert max(i.elements for i in wave.writes(1)) == returned
    memory = compiled().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 1.75 * 2 * returned
