"""Llama-3.1-8B's programs with the Triton kernels in them, as eight A100s would run them.

Later waves and queries are in `tests/large`.
"""

import pytest
from further import further
from kernel_programs import Kernels

AMPERE = Kernels("triton", "a100")


@pytest.mark.parametrize("program", ["first_wave", *further("decode", "streaming")])
def test_the_program(program):
    getattr(AMPERE, f"check_{program}")()
