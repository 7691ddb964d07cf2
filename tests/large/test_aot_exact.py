"""Claims about ring, Ulysses and the tensor axis, on the programs that eight GPUs would run."""

import functools

import aot
import flops
import numpy as np
import pytest
from programs import DEVICES, Programs, Shapes, layer_elements

from star_jax import Dense, Ring
from star_jax.prefill import exact

LAYERS = 3  # the last one computes nothing but keys and values
SHAPES = Shapes(layers=LAYERS)


@functools.cache
def program(name: str, shapes: Shapes = SHAPES) -> aot.Program:
    return aot.Program(getattr(Programs(shapes), name)().lower().compile())


def pairs(kind) -> np.ndarray:
    """How many (query, key) pairs each device has to attend to."""
    shards = exact.cut_into_shards(DEVICES * SHAPES.block, kind.chunks(DEVICES))
    return (shards.positions().reshape(DEVICES, -1) + 1).sum(axis=1)


def test_ring_is_balanced(capsys):
    """Pairs as the shards have them; FLOPs as counted, of one program for all devices."""
    ring, dense = pairs(Ring()), pairs(Dense())
    config, length = SHAPES.config, DEVICES * SHAPES.block
    traced = Programs(SHAPES).ring()
    linear = 2 * layer_elements(config)  # per token
    attention = flops.matmul_flops(traced) / LAYERS - linear * SHAPES.block
    needed = 4 * config.num_heads * config.head_dim * length**2 / 2 / DEVICES
    with capsys.disabled():
        print(
            f"\nring: pairs max/min {ring.max() / ring.min():.6f} (dense: "
            f"{dense.max() / dense.min():.1f}); attention FLOPs per device "
            f"{attention / needed:.4f} of the causal triangle's share"
        )
    assert ring.max() == ring.min() and ring.sum() == length * (length + 1) // 2
    assert dense.max() > 10 * dense.min()
    assert 1 <= attention / needed <= 1.05
    assert "cond" not in str(traced.jaxpr)  # nothing that only some devices do


def test_one_packed_transfer_per_step_hidden_behind_attention():
    """C - 1 steps a layer: one transfer is before the loop, and one in it, C - 2 times."""
    ring = program("ring")
    assert ring.collectives() == {"collective-permute": 2 * (LAYERS - 1)}
    bodies = [body for body in ring.while_bodies() if ring.collectives(body)]
    assert len(bodies) == LAYERS - 1
    loops = [i for i in ring.instructions() if i.opcode == "while" and set(i.calls) & set(bodies)]
    assert all(f'"known_trip_count":{{"n":"{DEVICES - 2}"}}' in loop.text for loop in loops)
    starts = [i for i in ring.instructions() if i.opcode == "collective-permute-start"]
    assert len(starts) == 2 * (LAYERS - 1)
    for start in starts:
        scheduled = [i for i in ring.instructions() if i.computation == start.computation]
        done = next(i for i in scheduled if "-done" in i.opcode and start.name in i.operands)
        between = scheduled[scheduled.index(start) + 1 : scheduled.index(done)]
        # The attention: a loop over tiles, with matmuls in it.
        tiles = [i for i in between if i.opcode == "while"]
        assert any("dot" in j.text for i in tiles for c in i.calls for j in ring.instructions(c))


def test_ulysses_exchanges_three_times_a_layer():
    """Keys with values, queries, and the output; of the last layer keys and values alone.

    Nothing needs those of the last layer, and XLA removes them.
    """
    assert program("ulysses").collectives() == {"all-to-all": 3 * (LAYERS - 1)}


@pytest.mark.parametrize("name", ["first_wave", "later_wave", "ask", "decode"])
def test_collectives_of_the_tensor_axis(name):
    """Two sums a layer and one for the embedding; decoding gathers logits once a token."""
    shapes = Shapes(layers=2, tensor=2)
    others = {
        "first_wave": {"collective-broadcast": 2, "all-reduce": 2 + 1},
        "later_wave": {"all-reduce": 2 + 1},
        "ask": {"all-reduce": 2 * 2 + 2 * 2 + 1, "all-gather": 1},
        "decode": {"all-reduce": 2 * 2 + 1, "all-gather": 2 + 1},
    }
    assert program(name, shapes).collectives() == others[name]


def test_decoding_on_the_tensor_axis_copies_nothing():
    shapes = Shapes(layers=2, tensor=2)
    config = shapes.config
    smallest = config.hidden_size * config.num_kv_heads * config.head_dim // 2
    assert program("decode", shapes).moves(smallest) == []
