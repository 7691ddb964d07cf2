"""Halo and a correction in Llama-3.1-8B's programs, compiled for eight GPUs that are not there.

By the rules that have both at once; `tests/large` has the others, and compares them.
"""

import aot
import pytest
from mended_programs import (
    BLOCK,
    BOTH,
    BROADCAST,
    ROWS,
    SENT,
    check_work,
    collectives,
    compiled,
    temporary,
)


def test_the_halo_is_one_permute_a_layer_and_a_correction_is_two_collectives():
    """All are hidden: the halo by the projection of queries."""
    assert collectives("first_wave", BOTH) == BROADCAST | SENT | ROWS
    assert collectives("later_wave", BOTH) == SENT | ROWS


@pytest.mark.long
def test_temporary_memory_does_not_depend_on_the_context():
    assert temporary(BOTH, 8) < 1.02 * temporary(BOTH, 2)


@pytest.mark.long
def test_no_layer_of_the_cache_is_copied():
    """Nothing is only moved that is as large as a layer's cache on one device."""
    keys = 8 * BLOCK * 8 * 128
    program = aot.Program(compiled("later_wave", BOTH, 8))
    assert program.moves(keys) == []


def test_work_of_a_block_is_as_predicted(capsys):
    check_work(BOTH, capsys)
