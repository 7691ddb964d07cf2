"""Claims about layers with windows, on the programs that eight GPUs would run.

They have Gemma 3 27B's widths and its window, of 1024 keys; see `programs.WithWindows`.
"""

import functools

import aot
import jax
import pytest
from programs import DEVICES, GEMMA, Programs


@functools.cache
def compiled(name: str) -> jax.stages.Compiled:
    return getattr(Programs(GEMMA, implementation="triton"), name)().lower().compile()


@pytest.mark.long
def test_a_window_is_one_permute_a_layer_and_no_anchor() -> None:
    """It is hidden by the projection of queries, but for the last layer, which has none."""
    program = aot.Program(compiled("first_wave"))
    assert program.collectives() == {"collective-permute": 2, "collective-broadcast": 1}
    assert program.hidden("collective-permute") == 1
    assert program.hidden_broadcasts() == 1


def test_decoding_needs_the_last_keys_from_nobody() -> None:
    """One gather, of the layer that sees everything."""
    assert aot.Program(compiled("decode")).collectives() == {"all-gather": 1}


def test_decoding_reads_nothing_of_the_cache_but_what_windows_reach() -> None:
    """Of layers with windows the cache is no argument of the program. Nothing is copied."""
    config, program = GEMMA.config, aot.Program(compiled("decode"))
    row = config.num_kv_heads * config.head_dim
    smallest = config.hidden_size * row
    assert program.moves(smallest) == []
    scores = config.num_heads * (GEMMA.block * GEMMA.waves + GEMMA.query + GEMMA.new)
    assert max(i.elements for i in program.writes(1)) <= scores < smallest
    memory = compiled("decode").memory_analysis()
    assert memory is not None
    weights = sum(
        x.size for x in jax.tree.leaves(Programs(GEMMA).model)
    )  # on every device; two bytes each
    layer = 2 * GEMMA.block * GEMMA.waves * row
    recent = 2 * 2 * config.reach * row
    rest = (memory.argument_size_in_bytes / 2 - weights - layer - recent) / layer
    assert 0 <= rest < 0.02
    assert DEVICES * GEMMA.block * GEMMA.waves == 2**19
