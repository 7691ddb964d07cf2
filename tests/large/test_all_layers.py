"""The four programs of Llama-3.1-8B with all 32 layers, compiled for eight H200s.

About three minutes on two cores.
"""

import aot
import pytest
from programs import Programs, Shapes

LAYERS = 32
COLLECTIVES = {
    "first_wave": {"collective-broadcast": LAYERS},
    "later_wave": {},
    "ask": {"all-reduce": 2 * LAYERS},
    "decode": {"all-gather": LAYERS},
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_and_memory(name, capsys):
    traced = getattr(Programs(Shapes(layers=LAYERS)), name)()
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    with capsys.disabled():
        print(f"\n{name}: temporary {memory.temp_size_in_bytes / 2**20:.0f} MiB")
    assert aot.Program(compiled).collectives() == COLLECTIVES[name]
    assert memory.temp_size_in_bytes < 2 * 2**30
