"""Halo alone and the other corrections, as `tests/test_aot_mending.py` has both at once."""

import pytest
from mended_programs import (
    BLOCK,
    BOTH,
    BROADCAST,
    DELTA,
    HALO_ALONE,
    ROWS,
    SENT,
    check_work,
    collectives,
    temporary,
)

from star_jax.prefill.waves import Rules


def test_the_halo_is_one_permute_a_layer_behind_the_projection_of_queries():
    assert collectives("first_wave", HALO_ALONE) == BROADCAST | SENT
    assert collectives("later_wave", HALO_ALONE) == SENT


def test_a_correction_is_two_collectives_a_layer():
    assert collectives("first_wave", DELTA) == BROADCAST | SENT | ROWS
    assert collectives("later_wave", DELTA) == SENT | ROWS


@pytest.mark.parametrize("rules", [HALO_ALONE, BOTH], ids=str)
def test_temporary_memory_is_that_of_plain_star_whatever_the_context(rules):
    few, many = temporary(rules, 2), temporary(rules, 8)
    assert many < 1.02 * few
    assert few < 1.1 * temporary(Rules(BLOCK))


@pytest.mark.parametrize("rules", [HALO_ALONE, DELTA], ids=str)
def test_work_of_a_block_is_as_predicted(rules, capsys):
    check_work(rules, capsys)
