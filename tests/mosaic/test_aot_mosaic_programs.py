"""Llama-3.1-8B's programs with the Hopper kernels in them, as eight H200s would run them."""

import pytest
from kernel_programs import Kernels

HOPPER = Kernels("mosaic", "h200")


@pytest.mark.parametrize("program", ["first_wave", "later_wave", "query", "decode"])
def test_the_program(program):
    getattr(HOPPER, f"check_{program}")()
