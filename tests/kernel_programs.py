"""What must hold of Llama-3.1-8B's programs with our kernels in them, on eight absent GPUs.

Two layers stand for 32; `test_aot` says the same of XLA's attention.
"""

import dataclasses
import functools
from typing import Any

import aot
from programs import Programs, Shapes, layer_elements

from star_jax.cache.layer import LayerCache, Plain

LAYERS = 2
SHAPES = Shapes(layers=LAYERS)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """One implementation's programs for one kind of GPU."""

    implementation: str
    kind: str
    layer_cache: type[LayerCache] = Plain

    def check_first_wave(self):
        """One kernel a layer, and one broadcast, sent while queries are projected.

        Of the last layer only keys and values are computed: no attention, nothing to hide behind.
        """
        wave = self.program("first_wave")
        assert launches(wave) == LAYERS - 1
        assert wave.collectives() == {"collective-broadcast": LAYERS}
        assert wave.hidden_broadcasts() == LAYERS - 1

    def check_later_wave(self):
        """No collective; of what is as large as a layer's keys, only attention's output moves:
        it is cast for the projection."""
        wave, config = self.program("later_wave"), SHAPES.config
        assert launches(wave) == LAYERS - 1
        assert wave.collectives() == {}
        keys = SHAPES.block * config.num_kv_heads * config.head_dim
        moved = [i.elements for i in wave.moves(keys)]
        assert moved == (LAYERS - 1) * [keys * config.num_heads // config.num_kv_heads]

    def check_streaming(self):
        """Two kernels a layer, for the window and the sinks, over keys that are gathered once."""
        streaming = self.program("streaming")
        assert launches(streaming) == 2 * (LAYERS - 1)
        assert streaming.collectives() == {"all-gather": LAYERS - 1}

    def check_query(self):
        """Context and tail: two kernels a layer; two collectives."""
        ask = self.program("ask")
        assert launches(ask) == 2 * LAYERS
        assert ask.collectives() == {"all-reduce": 2 * LAYERS}

    def check_decode(self):
        """Context, query and generated tokens: three kernels a layer, one collective.

        No weight and no layer of the cache is copied, nor anything near as large.
        """
        for waves in (1, 4):
            shapes = Shapes(layers=LAYERS, waves=waves)
            config, decode = shapes.config, self.program("decode", shapes)
            assert launches(decode) == 3 * LAYERS
            assert decode.collectives() == {"all-gather": LAYERS}
            smallest = config.hidden_size * config.num_kv_heads * config.head_dim
            assert decode.moves(smallest) == []
            assert max(i.elements for i in decode.writes(1)) < smallest / 4
            temporary = self.compiled("decode", shapes).memory_analysis().temp_size_in_bytes
            assert temporary < 2 * layer_elements(config) / 10

    def program(self, name: str, shapes: Shapes = SHAPES) -> aot.Program:
        return aot.Program(self.compiled(name, shapes))

    @functools.cache  # noqa: B019 - a few instances, for the length of a test run
    def compiled(self, name: str, shapes: Shapes = SHAPES):
        how: Any = {"implementation": self.implementation, "layer_cache": self.layer_cache}
        programs = Programs(shapes, self.kind, **how)
        return getattr(programs, name)().lower().compile()


def launches(program: aot.Program) -> int:
    """How many of our kernels it calls."""
    calls = [i for i in program.instructions() if i.opcode.startswith("custom-call")]
    return sum("star_" in i.text or "mosaic_gpu" in i.text for i in calls)
