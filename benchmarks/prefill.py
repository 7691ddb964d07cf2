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
from star_jax.runs import cli

_MODELS = [*llama_shapes.CPU, *llama_shapes.GPU]
_LENGTHS = {
    "cpu": ["8192", "16384"],
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
    if _MODEL.value in llama_shapes.GPU:
        _gpu(out)
    elif _PART.value is not None:
        _cpu_part(pathlib.Path(_PART.value))
    else:
        _cpu(out)


def _lengths(where: str) -> list[int]:
    given = _LENGTHS[where] if _LENGTHS_FLAG.value is None else _LENGTHS_FLAG.value
    return options.integers("lengths", given)


def _write(out: pathlib.Path | None, record: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n")


def _gpu(out: pathlib.Path | None) -> None:
    lengths, blocks = _lengths("gpu"), options.integers("blocks", _BLOCKS.value)
    records = prefill_gpu.run(_MODEL.value, lengths, blocks, rounds=_ROUNDS.value)
    # Not only Wrong: without a time there is nothing to keep either.
    record = options.last_written(records, out, void=ValueError)
    print(prefill_table.of(record))


def _cpu(out: pathlib.Path | None) -> None:
    from benchmarks import prefill_cpu  # with torch and transformers, which a GPU run needs not

    devices = options.integers("devices", _DEVICES.value)
    record = prefill_cpu.run(
        _MODEL.value,
        _lengths("cpu"),
        devices,
        rounds=_ROUNDS.value,
        threads=_THREADS.value,
    )
    _write(out, record)
    print(prefill_table.cpu(record["results"]))


def _cpu_part(out: pathlib.Path) -> None:
    from benchmarks import prefill_cpu

    (devices,) = options.integers("devices", _DEVICES.value)
    results = prefill_cpu.part(
        _MODEL.value,
        _lengths("cpu"),
        devices,
        rounds=_ROUNDS.value,
        threads=_THREADS.value,
    )
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    cli.run(main)
