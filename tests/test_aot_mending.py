"""Halo and corrections in Llama-3.1-8B's programs, compiled for eight GPUs that are not there."""

import functools

import aot
import flops
import pytest
from programs import DEVICES, Programs, Shapes, layer_elements

from star_jax.prefill.waves import Rules

LAYERS = 2
BLOCK = Shapes(layers=LAYERS).block
HALO_ALONE = Rules(BLOCK, 512)
# The second is what docs/mending.md recommends.
CORRECTED = [Rules(BLOCK, 512, "delta", 64), Rules(BLOCK // 4, 3 * BLOCK // 4, "both", 64)]


@functools.cache
def compiled(name, rules, waves=2):
    programs = Programs(Shapes(layers=LAYERS, waves=waves), implementation="triton", rules=rules)
    return getattr(programs, name)().lower().compile()


def collectives(name, rules, waves=2):
    """How many of each kind, and how many of these a matmul hides."""
    program = aot.Program(compiled(name, rules, waves))
    return {kind: (n, program.hidden(kind)) for kind, n in program.collectives().items()}


# Of the last layer only keys and values are computed: nothing is there to hide what it sends.
BROADCAST = {"collective-broadcast": (LAYERS, LAYERS - 1)}
SENT = {"collective-permute": (LAYERS, LAYERS - 1)}
ROWS = {"all-gather": (LAYERS - 1, LAYERS - 1), "all-to-all": (LAYERS - 1, LAYERS - 1)}


def test_the_halo_is_one_permute_a_layer_behind_the_projection_of_queries():
    assert collectives("first_wave", HALO_ALONE) == BROADCAST | SENT
    assert collectives("later_wave", HALO_ALONE) == SENT


@pytest.mark.parametrize("rules", CORRECTED, ids=lambda rules: rules.correction)
def test_a_correction_is_two_collectives_a_layer(rules):
    assert collectives("first_wave", rules) == BROADCAST | SENT | ROWS
    assert collectives("later_wave", rules) == SENT | ROWS


@pytest.mark.parametrize("rules", [HALO_ALONE, CORRECTED[1]], ids=str)
def test_temporary_memory_does_not_depend_on_the_context(rules):
    few, many = (
        compiled("later_wave", rules, waves).memory_analysis().temp_size_in_bytes
        for waves in (2, 8)
    )
    assert many < 1.02 * few
    plain = compiled("later_wave", Rules(BLOCK)).memory_analysis().temp_size_in_bytes
    assert few < 1.1 * plain


def test_no_layer_of_the_cache_is_copied():
    """Nothing is only moved that is as large as a layer's cache on one device."""
    keys = 8 * BLOCK * 8 * 128
    program = aot.Program(compiled("later_wave", CORRECTED[1], 8))
    assert program.moves(keys) == []


def test_work_of_a_block_is_as_predicted(capsys):
    """In units of what plain star takes for a block and layer: lin b + 6 d b^2.

    The halo adds h keys to every row. Of a block, b / stride rows go to all devices: each takes
    those of the seven others over its block, and all eight over its cache; a half more if keys are
    averaged beside values (the kernels compute scores again for it: twice). The choice of a
    tangent takes b / stride more scores a row.
    """
    for waves in (1, 8):
        before, shapes = waves - 1, Shapes(layers=LAYERS, waves=max(waves - 1, 1))
        name = "later_wave" if before else "first_wave"
        config = shapes.config
        d, linear = config.num_heads * config.head_dim, 2 * layer_elements(config) * BLOCK
        plain = linear + 6 * d * BLOCK**2
        for rules in (HALO_ALONE, *CORRECTED):
            expected = linear + 4 * d * BLOCK * (BLOCK / 2 + rules.anchor + rules.halo)
            if rules.correction is not None:
                rows, has_tangent = BLOCK // rules.stride, rules.correction == "both"
                far = 4 * d * rows * BLOCK * (DEVICES - 1 + DEVICES * before)
                expected += far * (1 + has_tangent / 2) + 2 * d * BLOCK * rows * has_tangent
            traced = getattr(Programs(shapes, rules=rules), name)()
            work = flops.matmul_flops(traced) / LAYERS
            with capsys.disabled():
                print(
                    f"\n{waves * DEVICES * BLOCK} tokens, last block, {rules}: "
                    f"{work / plain:.3f} of plain star, predicted {expected / plain:.3f}"
                )
            # One of two layers has no attention: of the last, only keys and values are computed.
            assert 0.9 * expected < work < 1.1 * expected, rules
