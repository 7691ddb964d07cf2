"""What Star Attention's blocks lose on a real model, and how much of it a setting wins back.

    python -m benchmarks.accuracy --lengths=2048,4096 --documents=13 \\
        --records=benchmarks/results/accuracy_smollm2.jsonl \\
        --out=benchmarks/results/accuracy_smollm2.json

Teacher-forced, so that a document costs one phase 1 for each setting. Each has needles in prose,
a list of made-up names, and a continuation; see `documents`. The records are written document by
document, and a run that is started again goes on from them.
"""

import json
from collections.abc import Sequence

from absl import flags

import star_jax
from benchmarks import accuracy_probes, accuracy_table, machine, options
from star_jax import Dense, Engine
from star_jax.runs import cli

# A quarter of the anchor and a halo of three quarters see as many keys as the whole anchor.
SEEN = "block=L/8 anchor=b/4 halo=3b/4"
SETTINGS = (
    "block=L/4",
    "block=L/8",
    "block=L/8 halo=64",
    "block=L/8 halo=64 correction=delta stride=64",
    SEEN,
    f"{SEEN} correction=delta stride=64",
    f"{SEEN} correction=tangent stride=64",
    f"{SEEN} correction=both stride=64",
    f"{SEEN} correction=both stride=32",
    f"{SEEN} correction=both stride=128",
    "block=L/8 anchor=b/4 halo=b correction=both stride=64",
    "block=L/8 anchor=b/8 halo=b/2 correction=both stride=64",
    "block=L/4 anchor=b/4 halo=3b/4 correction=both stride=64",
)

_MODEL = flags.DEFINE_string("model", "checkpoints/smollm2", "A checkpoint with a chat template.")
_LENGTHS = flags.DEFINE_list("lengths", ["2048"], "Tokens of the documents.")
_DOCUMENTS = flags.DEFINE_integer("documents", 13, "How many, of each length.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "The first one.", lower_bound=0)
_SETTINGS = flags.DEFINE_multi_string(
    "setting", list(SETTINGS), "How star encodes: block=L/8 anchor=b/4 halo=64 stride=32 ..."
)
_DTYPE = flags.DEFINE_string("dtype", "float32", "What weights and activations are.")
_RECORDS = flags.DEFINE_string("records", None, "JSON lines, one for each document and setting.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")


def main(argv: Sequence[str]) -> None:
    del argv
    out = options.out_path(_OUT.value)
    lengths, settings = options.integers("lengths", _LENGTHS.value), _SETTINGS.value
    for text in settings:
        accuracy_probes.parse(text, 8192)  # what cannot be is told now
    engine = Engine.from_pretrained(
        _MODEL.value, mesh=star_jax.make_mesh(), attention=Dense(), dtype=_DTYPE.value
    )
    kinds = {length: accuracy_probes.kinds_of(settings, length) for length in lengths}
    indices = range(_FIRST.value, _FIRST.value + _DOCUMENTS.value)
    results = accuracy_probes.run(engine, kinds, indices, _RECORDS.value)
    if out is not None:
        record = machine.circumstances(engine.mesh.devices.flat[0], "benchmarks.accuracy")
        out.write_text(json.dumps({**record, "results": results}, indent=1) + "\n")
    print(accuracy_table.of(results))


if __name__ == "__main__":
    cli.run(main)
