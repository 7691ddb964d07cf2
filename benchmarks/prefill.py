"""Times phase 1 end to end.

    python -m benchmarks.prefill --out=benchmarks/results/prefill_cpu.json
    python -m benchmarks.prefill --model=llama31_8b --out=benchmarks/results/prefill_h200.json

The first on CPU: transformers, dense, ring and Star Attention, on one simulated device and on
eight. The second on one GPU: dense and Star Attention, at the shapes of Llama-3.1-8B. In both,
what is wrong is not timed. benchmarks/README.md says what exactly is compared.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import llama_shapes, options, prefill_gpu, prefill_table
from star_jax.eval import cli

_MODELS = [*llama_shapes.CPU, *llama_shapes.GPU]
_LENGTHS = {
    "cpu": ["4096", "8192", "16384"],
    "gpu": ["16384", "32768", "65536", "131072", "1048576"],
}

_MODEL = flags.DEFINE_enum("model", "small", _MODELS, "Its shape; its weights are random.")
_LENGTHS_FLAG = flags.DEFINE_list("lengths", None, "Tokens of the contexts.")
_DEVICES = flags.DEFINE_list("devices", ["1", "8"], "Numbers of simulated devices, on CPU.")
_BLOCKS = flags.DEFINE_list("blocks", ["16384", "32768"], "Of Star Attention, on a GPU.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "How often each is timed.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 2, "Of transformers, and of JAX, on CPU.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")
_PART = flags.DEFINE_string(
    "part", None, "Internal: where the run on one number of devices writes."
)


def main(argv: Sequence[str]) -> None:
    del argv
    out = options.out_path(_OUT.value)
    record, table = _gpu() if _MODEL.value in llama_shapes.GPU else _cpu()
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n")
    if table:
        print(table)


def _lengths(where: str) -> list[int]:
    given = _LENGTHS[where] if _LENGTHS_FLAG.value is None else _LENGTHS_FLAG.value
    return options.integers("lengths", given)


def _gpu() -> tuple[dict[str, Any], str]:
    record = prefill_gpu.run(
        _MODEL.value,
        _lengths("gpu"),
        options.integers("blocks", _BLOCKS.value),
        rounds=_ROUNDS.value,
    )
    return record, prefill_table.of(record)


def _cpu() -> tuple[dict[str, Any], str]:
    from benchmarks import prefill_cpu  # with torch and transformers, which a GPU run needs not

    lengths, devices = _lengths("cpu"), options.integers("devices", _DEVICES.value)
    settings = {"rounds": _ROUNDS.value, "threads": _THREADS.value}
    if _PART.value is not None:
        results = prefill_cpu.part(_MODEL.value, lengths, devices[0], **settings)
        pathlib.Path(_PART.value).write_text(json.dumps(results))
        return {}, ""
    record = prefill_cpu.run(_MODEL.value, lengths, devices, **settings)
    return record, prefill_table.cpu(record["results"])


if __name__ == "__main__":
    cli.run(main)
