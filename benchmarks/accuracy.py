"""What Star Attention's blocks lose on a real model, and how much of it a setting wins back.

    python -m benchmarks.accuracy --lengths=2048,4096 --documents=13 \\
        --records=results/accuracy.jsonl --out=benchmarks/results/accuracy_smollm2.json

Teacher-forced, so that a document costs one phase 1 for each setting. Each has needles in prose,
a list of made-up names, and a continuation; see `documents`. The records are written document by
document, and a run that is started again goes on from them.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

import star_jax
from benchmarks import accuracy_probes, accuracy_table, machine, options
from star_jax import Dense, Engine, Star
from star_jax.prefill.kinds import Kind
from star_jax.runs import cli

SETTINGS = (
    "block=L/4",
    "block=L/8",
    "block=L/8 halo=64",
    "block=L/8 halo=64 correction=delta",
    "block=L/8 halo=64 correction=tangent stride=32",
    "block=L/8 halo=b/2 correction=tangent stride=32",
    "block=L/8 anchor=b/4 halo=b/2 correction=tangent stride=32",
    "block=L/8 anchor=b/4 halo=b",
    "block=L/8 anchor=b/4 halo=b correction=delta stride=32",
    "block=L/8 anchor=b/4 halo=b correction=tangent stride=32",
    "block=L/8 anchor=b/4 halo=b correction=tangent stride=16",
)

_MODEL = flags.DEFINE_string("model", "checkpoints/smollm2", "A checkpoint with a chat template.")
_LENGTHS = flags.DEFINE_list("lengths", ["2048"], "Tokens of the documents.")
_DOCUMENTS = flags.DEFINE_integer("documents", 13, "How many, of each length.", lower_bound=1)
_FIRST = flags.DEFINE_integer("first", 0, "The first one.", lower_bound=0)
_SETTINGS = flags.DEFINE_multi_string(
    "setting", list(SETTINGS), "Of Star Attention: block=L/8 anchor=b/4 halo=64 stride=32 ..."
)
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of weights and activations.")
_RECORDS = flags.DEFINE_string("records", None, "JSON lines, one for each document and setting.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")


def main(argv: Sequence[str]) -> None:
    del argv
    out = options.out_path(_OUT.value)
    lengths = options.integers("lengths", _LENGTHS.value)
    settings = _SETTINGS.value
    for text in settings:
        parse(text, 8192)  # what cannot be is told now
    path = pathlib.Path(_RECORDS.value) if _RECORDS.value else None
    done = accuracy_probes.read(path)
    engine = Engine.from_pretrained(
        _MODEL.value, mesh=star_jax.make_mesh(), attention=Dense(), dtype=_DTYPE.value
    )
    indices = range(_FIRST.value, _FIRST.value + _DOCUMENTS.value)
    for length in lengths:
        kinds: dict[str, Kind] = {"exact": Dense(), **{s: parse(s, length) for s in settings}}
        for one in accuracy_probes.measure(engine, length, indices, kinds, done):
            done.append(one)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(one) + "\n")
    record = machine.circumstances(engine.mesh.devices.flat[0], "benchmarks.accuracy")
    order = ("exact", *settings)
    asked = [r for r in done if r["length"] in lengths and r["setting"] in order]
    asked.sort(key=lambda r: order.index(r["setting"]))
    result = {**record, "results": accuracy_table.summarise(asked)}
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(accuracy_table.of(result["results"]))


def parse(text: str, length: int) -> Star:
    """A setting at a length: `L` is the length, `b` the block."""
    names = {"block": "block_size", "anchor": "anchor_size"}
    found: dict[str, Any] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        base, _, part = value.partition("/")
        known = {"L": length, "b": found.get("block_size", 0)}
        size: Any = known[base] // int(part or 1) if base in known else value
        found[names.get(name, name)] = size if name == "correction" else int(size)
    return Star(**found)


if __name__ == "__main__":
    cli.run(main)
