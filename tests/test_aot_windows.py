"""Claims about layers with windows, on the programs that eight GPUs would run.

They have Gemma 3 27B's widths. The first and the last of three layers have a window, of 1024 keys;
the one between sees everything.
"""

import dataclasses
import functools

import aot
import jax
import pytest
from programs import DEVICES, Programs, Shapes

from star_jax.models import DecoderConfig


class Three(Shapes):
    @property
    def config(self) -> DecoderConfig:
        return dataclasses.replace(super().config, windowed=frozenset({0, 2}))


SHAPES = Three(layers=3, waves=4, model="gemma-3-27b-it")


@functools.cache
def compiled(name: str) -> jax.stages.Compiled:
    return getattr(Programs(SHAPES, implementation="triton"), name)().lower().compile()


@pytest.mark.parametrize("name", ["first_wave", "later_wave"])
def test_a_window_is_one_permute_a_layer_and_no_anchor(name: str) -> None:
    """It is hidden by the projection of queries, but for the last layer, which has none."""
    program = aot.Program(compiled(name))
    anchor = {"collective-broadcast": 1} if name == "first_wave" else {}
    assert program.collectives() == {"collective-permute": 2, **anchor}
    assert program.hidden("collective-permute") == 1
    assert program.hidden_broadcasts() == len(anchor)


def test_a_query_brings_the_last_keys_together_and_decoding_needs_them_from_nobody() -> None:
    """Two sums of a layer that sees everything, and one of all others; then a gather."""
    assert aot.Program(compiled("ask")).collectives() == {"all-reduce": 2 + 1}
    assert aot.Program(compiled("decode")).collectives() == {"all-gather": 1}


def test_decoding_reads_nothing_of_the_cache_but_what_windows_reach() -> None:
    """Of layers with windows the cache is no argument of the program. Nothing is copied."""
    config, program = SHAPES.config, aot.Program(compiled("decode"))
    row = config.num_kv_heads * config.head_dim
    smallest = config.hidden_size * row
    assert program.moves(smallest) == []
    scores = config.num_heads * (SHAPES.block * SHAPES.waves + SHAPES.query + SHAPES.new)
    assert max(i.elements for i in program.writes(1)) <= scores < smallest
    memory = compiled("decode").memory_analysis()
    assert memory is not None
    weights = sum(
        x.size for x in jax.tree.leaves(Programs(SHAPES).model)
    )  # on every device; two bytes each
    layer = 2 * SHAPES.block * SHAPES.waves * row
    assert config.window is not None
    recent = 2 * 2 * (config.window - 1) * row
    rest = (memory.argument_size_in_bytes / 2 - weights - layer - recent) / layer
    assert 0 <= rest < 0.02
    assert DEVICES * SHAPES.block * SHAPES.waves == 2**19
