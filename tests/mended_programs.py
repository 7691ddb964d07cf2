"""Halo and corrections in Llama-3.1-8B's programs, compiled for eight GPUs that are not there.

Both `tests` and `tests/large` have tests of them.
"""

import functools

import aot
import flops
from programs import DEVICES, Programs, Shapes, layer_elements

from star_jax.prefill.waves import Rules

LAYERS = 2
BLOCK = Shapes(layers=LAYERS).block
HALO_ALONE = Rules(BLOCK, 512)
DELTA = Rules(BLOCK, 512, "delta", 64)
# What docs/mending.md recommends: it has all that the others have.
BOTH = Rules(BLOCK // 4, 3 * BLOCK // 4, "both", 64)

# Of the last layer only keys and values are computed: nothing is there to hide what it sends.
BROADCAST = {"collective-broadcast": (LAYERS, LAYERS - 1)}
SENT = {"collective-permute": (LAYERS, LAYERS - 1)}
ROWS = {"all-gather": (LAYERS - 1, LAYERS - 1), "all-to-all": (LAYERS - 1, LAYERS - 1)}


@functools.cache
def compiled(name, rules, waves=2):
    programs = Programs(Shapes(layers=LAYERS, waves=waves), implementation="triton", rules=rules)
    return getattr(programs, name)().lower().compile()


def collectives(name, rules, waves=2):
    """How many of each kind, and how many of these a matmul hides."""
    program = aot.Program(compiled(name, rules, waves))
    return {kind: (n, program.hidden(kind)) for kind, n in program.collectives().items()}


def temporary(rules, waves=2):
    """Bytes that a later wave takes for the time that it runs."""
    return compiled("later_wave", rules, waves).memory_analysis().temp_size_in_bytes


def check_work(rules, capsys):
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
