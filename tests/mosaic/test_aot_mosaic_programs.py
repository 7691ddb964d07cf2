"""Llama-3.1-8B's programs with the Hopper kernels in them, as eight H200s would run them.

Two layers stand for 32; see `test_aot`, which says the same of XLA's attention.
"""

import functools

import aot
from programs import Programs, Shapes, layer_elements

LAYERS = 2
SHAPES = Shapes(layers=LAYERS)


@functools.cache
def compiled(name: str, shapes: Shapes = SHAPES):
    return getattr(Programs(shapes, implementation="mosaic"), name)().lower().compile()


def kernels(name: str, shapes: Shapes = SHAPES) -> int:
    instructions = aot.Program(compiled(name, shapes)).instructions()
    return sum("mosaic_gpu" in i.text for i in instructions if i.opcode.startswith("custom-call"))


def program(name: str, shapes: Shapes = SHAPES) -> aot.Program:
    return aot.Program(compiled(name, shapes))


def test_first_wave():
    """One kernel a layer, and one broadcast, sent while queries are projected.

    Of the last layer only keys and values are computed: no attention, nothing to hide behind.
    """
    assert kernels("first_wave") == LAYERS - 1
    assert program("first_wave").collectives() == {"collective-broadcast": LAYERS}
    assert program("first_wave").hidden_broadcasts() == LAYERS - 1


def test_later_wave():
    assert kernels("later_wave") == LAYERS - 1
    assert program("later_wave").collectives() == {}


def test_a_later_wave_moves_nothing_but_its_output():
    """Of what is as large as a layer's keys, only attention's output, cast for the projection."""
    config = SHAPES.config
    keys = SHAPES.block * config.num_kv_heads * config.head_dim
    moved = program("later_wave").moves(keys)
    assert [i.elements for i in moved] == (LAYERS - 1) * [
        keys * config.num_heads // config.num_kv_heads
    ]


def test_query():
    """Context and tail: two kernels a layer."""
    assert kernels("ask") == 2 * LAYERS
    assert program("ask").collectives() == {"all-reduce": 2 * LAYERS}


def test_decode_copies_no_weight_and_no_cache_layer():
    """Context, query and generated tokens: three kernels a layer, one collective."""
    for waves in (1, 4):
        shapes = Shapes(layers=LAYERS, waves=waves)
        config = shapes.config
        decode = program("decode", shapes)
        assert kernels("decode", shapes) == 3 * LAYERS
        assert decode.collectives() == {"all-gather": LAYERS}
        smallest = config.hidden_size * config.num_kv_heads * config.head_dim
        assert decode.moves(smallest) == []
        assert max(i.elements for i in decode.writes(1)) < smallest / 10
        temporary = compiled("decode", shapes).memory_analysis().temp_size_in_bytes
        assert temporary < 2 * layer_elements(config) / 10
