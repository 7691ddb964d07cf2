"""Tries variations of halo and tangent on one device; what pays is built into `Star`.

    python -m benchmarks.trial --documents=6 --out=benchmarks/results/trial_smollm2.json

What is asked is what `benchmarks.accuracy` asks.
"""

import json
from collections.abc import Sequence

from absl import flags

import star_jax
from benchmarks import accuracy_probes, accuracy_table, machine, options
from benchmarks.variations import variations
from star_jax import Dense, Engine
from star_jax.prefill.kinds import Kind
from star_jax.runs import cli

_MODEL = flags.DEFINE_string("model", "checkpoints/smollm2", "A checkpoint with a chat template.")
_LENGTH = flags.DEFINE_integer("length", 2048, "Tokens of the documents.", lower_bound=64)
_BLOCKS = flags.DEFINE_integer("blocks", 16, "Into which a document is cut.", lower_bound=2)
_DOCUMENTS = flags.DEFINE_integer("documents", 6, "How many.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", None, "Names of variations; all by default.")
_RECORDS = flags.DEFINE_string("records", None, "JSON lines, one for each document and variation.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")


def main(argv: Sequence[str]) -> None:
    del argv
    out = options.out_path(_OUT.value)
    length, block = _LENGTH.value, _LENGTH.value // _BLOCKS.value
    engine = Engine.from_pretrained(
        _MODEL.value, mesh=star_jax.make_mesh(), attention=Dense(), dtype="float32"
    )
    kinds: dict[str, Kind] = {"exact": Dense(), **variations(block, engine.config.num_layers)}
    if _ONLY.value:
        if unknown := [name for name in _ONLY.value if name not in kinds]:
            raise ValueError(f"--only: {unknown} are none of {list(kinds)}")
        kinds = {name: kinds[name] for name in ("exact", "block=b", *_ONLY.value)}
    results = accuracy_probes.run(engine, {length: kinds}, range(_DOCUMENTS.value), _RECORDS.value)
    if out is not None:
        record = machine.circumstances(engine.mesh.devices.flat[0], "benchmarks.trial")
        out.write_text(json.dumps({**record, "results": results}, indent=1) + "\n")
    print(accuracy_table.of(results))


if __name__ == "__main__":
    cli.run(main)
