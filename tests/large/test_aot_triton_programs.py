"""Later waves and queries, as `tests/test_aot_triton_programs.py` has the other programs."""

import pytest
from kernel_programs import Kernels

AMPERE = Kernels("triton", "a100")


@pytest.mark.parametrize("program", ["later_wave", "query"])
def test_the_program(program):
    getattr(AMPERE, f"check_{program}")()
