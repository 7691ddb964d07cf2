"""Claims about work, collectives and copies, on the programs that eight GPUs would run.

Llama-3.1-8B's widths, blocks of 16K tokens. Two layers stand for 32: everything asserted
is per layer; `tests/large` compiles all of them.
"""

import functools

import aot
import flops
import jax
import jax.numpy as jnp
import pytest
from further import further
from programs import DEVICES, Programs, Shapes, layer_elements

from star_jax import Sampling
from star_jax.generate import attention as phase2

LAYERS = 2
SHAPES = Shapes(layers=LAYERS)


@functools.cache
def compiled(name: str, shapes: Shapes = SHAPES, kind: str = "h200"):
    return getattr(Programs(shapes, kind), name)().lower().compile()


def program(name: str, shapes: Shapes = SHAPES, kind: str = "h200") -> aot.Program:
    return aot.Program(compiled(name, shapes, kind))


@pytest.mark.parametrize("wave", ["first_wave", "later_wave"])
def test_work_of_a_block_is_that_of_a_shared_anchor(wave, capsys):
    """At most 1.05 (lin b + 6 d b^2) per block and layer; the literal algorithm needs more."""
    b, config = SHAPES.block, SHAPES.config
    d = config.num_heads * config.head_dim
    lin = 2 * layer_elements(config)  # per token
    ours, literal = lin * b + 6 * d * b**2, 2 * lin * b + 8 * d * b**2
    work = flops.matmul_flops(getattr(Programs(SHAPES), wave)()) / LAYERS
    with capsys.disabled():
        print(
            f"\n{wave}: {work:.4g} FLOPs per block and layer, {work / ours:.4f} (lin b + 6 d b^2);"
            f" the literal algorithm: {literal:.4g}, {literal / work:.2f} times as much"
        )
    assert ours < work <= 1.05 * ours
    assert work < literal


def test_only_the_first_wave_communicates_and_once_per_layer():
    assert program("first_wave").collectives() == {"collective-broadcast": LAYERS}
    assert program("later_wave").collectives() == {}


def test_the_broadcast_is_sent_while_queries_are_projected():
    """On the scheduled HLO a matmul lies between the start of the broadcast and its end.

    Not for the last layer: only its keys and values are computed, and there is no query.
    """
    assert program("first_wave").hidden_broadcasts() == LAYERS - 1


def test_collectives_of_phase_2():
    """Two per layer for a query (pmax, psum), one for a decode step, whatever else there is."""
    assert program("ask").collectives() == {"all-reduce": 2 * LAYERS}
    decode = program("decode")
    assert decode.collectives() == {"all-gather": LAYERS}
    loops = [body for body in decode.while_bodies() if decode.collectives(body)]
    assert len(loops) == 1  # all of them inside the loop over tokens


def test_a_decode_step_gathers_at_any_batch():
    """One collective whatever its size; of queries, only messages that are all latency."""
    heads = (SHAPES.config.num_heads, SHAPES.config.head_dim)
    for batch in (1, 8, 64):
        assert phase2.merge_method(jnp.zeros((batch, 1, *heads)), DEVICES) == "gather"
        assert phase2.merge_method(jnp.zeros((batch, 64, *heads)), DEVICES) == "psum"
    assert phase2.merge_method(jnp.zeros((1, 16, 4, 32)), DEVICES) == "gather"


@pytest.mark.parametrize("kind", ["h200", *further("a100")])
@pytest.mark.parametrize("waves", [1, 4])
def test_decoding_copies_no_weight_and_no_cache_layer(kind, waves):
    """Nothing as large as the smallest weight matrix is written; scores are the largest array."""
    shapes = Shapes(layers=LAYERS, waves=waves)
    config = shapes.config
    smallest = config.hidden_size * config.num_kv_heads * config.head_dim
    decode = program("decode", shapes, kind)
    assert decode.moves(smallest) == []
    scores = config.num_heads * (shapes.block * waves + shapes.query + shapes.new)
    assert max(i.elements for i in decode.writes(1)) <= scores < smallest
    temporary = compiled("decode", shapes, kind).memory_analysis().temp_size_in_bytes
    assert temporary < 2 * layer_elements(config) / 10


@pytest.mark.long
def test_drawing_four_samples_copies_nothing_and_adds_no_collective():
    """The samples of a context are one query of four tokens to its keys."""
    shapes = Shapes(layers=LAYERS, samples=4)
    config, draws = shapes.config, Sampling(top_p=0.9, repetition_penalty=1.1)
    decode = aot.Program(Programs(shapes, sampling=draws).decode().lower().compile())
    assert decode.collectives() == {"all-gather": LAYERS}
    smallest = config.hidden_size * config.num_kv_heads * config.head_dim
    assert decode.moves(smallest) == []
    scores = 4 * config.num_heads * (shapes.block + shapes.query + shapes.new)
    assert max(i.elements for i in decode.writes(1)) <= scores < smallest


@pytest.mark.long
def test_memory_of_a_wave_depends_on_the_block_alone():
    """No program of phase 1 has an argument that grows with the context."""
    for name in ("first_wave", "later_wave"):
        shapes = {
            tuple(a.shape) for a in jax.tree.leaves(getattr(Programs(SHAPES), name)().in_avals)
        }
        longest = max(max(s, default=0) for s in shapes if s[-1:] != (SHAPES.config.hidden_size,))
        assert longest <= DEVICES * SHAPES.block
    two, three = (
        compiled("later_wave", Shapes(layers=n)).memory_analysis().temp_size_in_bytes
        for n in (2, 3)
    )
    assert three - two < 0.1 * two  # activations of one layer at a time
    half = compiled("later_wave", Shapes(layers=2, block=8192)).memory_analysis()
    assert two < 2.2 * half.temp_size_in_bytes


@pytest.mark.long
def test_logits_come_in_parts():
    """Llama-3.1-8B's 8K query tokens on eight H200s: no device holds more than 128 of them."""
    shapes = Shapes(layers=2, query=8192)
    logits = Programs(shapes).logits().lower().compile()
    vocabulary = shapes.config.vocab_size
    assert logits.memory_analysis().output_size_in_bytes <= 1.01 * 128 * vocabulary * 4
    hidden = aot.Program(Programs(shapes).hidden().lower().compile())
    assert max(i.elements for i in hidden.writes(1)) < 8192 * vocabulary // 8
