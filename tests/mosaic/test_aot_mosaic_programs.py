"""Llama-3.1-8B's programs with the Hopper kernels in them, as eight H200s would run them.

Later waves and queries are in `tests/large`.
"""

import aot
import pytest
from further import further
from kernel_programs import Kernels
from programs import GEMMA, Programs

HOPPER = Kernels("mosaic", "h200")


@pytest.mark.parametrize("program", ["first_wave", "decode", *further("streaming")])
def test_the_program(program):
    getattr(HOPPER, f"check_{program}")()


@pytest.mark.long
def test_a_decoded_token_copies_no_keys_of_a_window():
    config = GEMMA.config
    decode = aot.Program(Programs(GEMMA, implementation="mosaic").decode().lower().compile())
    assert decode.moves(config.reach * config.num_kv_heads * config.head_dim) == []
