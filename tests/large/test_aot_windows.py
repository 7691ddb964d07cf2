"""Later waves and queries of layers with windows, as `tests/test_aot_windows.py` has the others."""

import aot
from programs import GEMMA, Programs


def program(name: str) -> aot.Program:
    return aot.Program(getattr(Programs(GEMMA, implementation="triton"), name)().lower().compile())


def test_a_window_is_one_permute_a_layer_also_in_later_waves() -> None:
    """It is hidden by the projection of queries, but for the last layer, which has none."""
    later = program("later_wave")
    assert later.collectives() == {"collective-permute": 2}
    assert later.hidden("collective-permute") == 1


def test_a_query_brings_the_last_keys_together() -> None:
    """Two sums of a layer that sees everything, and one of all others."""
    assert program("ask").collectives() == {"all-reduce": 2 + 1}
