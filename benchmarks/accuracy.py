"""What Star Attention's blocks lose on a real model, and how much of it a setting wins back.

    python -m benchmarks.accuracy --lengths=2048,4096 --documents=13 \\
        --records=results/accuracy.jsonl --out=benchmarks/results/accuracy_smollm2.json

Teacher-forced, so that a document costs one phase 1 for each setting. Each has needles in prose,
a list of made-up names, and a continuation; see `documents`. The records are written document by
document, and a run that is started again goes on from them.
"""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

import star_jax
from benchmarks import accuracy_table, documents, machine, options, phase1_work
from star_jax import Dense, Engine, Star
from star_jax.cache import Context
from star_jax.prefill.kinds import Kind
from star_jax.runs import cli

SETTINGS = (
    "block=L/4",
    "block=L/4 halo=64",
    "block=L/8",
    "block=L/8 halo=64",
    "block=L/8 halo=64 correction=delta",
    "block=L/8 halo=64 correction=tangent stride=128",
    "block=L/8 halo=64 correction=tangent stride=64",
    "block=L/8 halo=64 correction=tangent stride=32",
    "block=L/8 halo=128 correction=tangent stride=32",
    "block=L/8 halo=64 anchor=64 correction=tangent stride=32",
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
    done = _read(path)
    engine = Engine.from_pretrained(
        _MODEL.value, mesh=star_jax.make_mesh(), attention=Dense(), dtype=_DTYPE.value
    )
    indices = range(_FIRST.value, _FIRST.value + _DOCUMENTS.value)
    for record in measure(engine, lengths, indices, settings, done):
        done.append(record)
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    record = machine.circumstances(engine.mesh.devices.flat[0], "benchmarks.accuracy")
    result = {**record, "results": accuracy_table.summarise(done)}
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


def measure(
    engine: Engine,
    lengths: Sequence[int],
    indices: Sequence[int],
    settings: Sequence[str],
    done: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """A record for each document and setting that is not done."""
    there = {(r["length"], r["document"], r["setting"]) for r in done}
    for length in lengths:
        kinds: dict[str, Kind] = {"exact": Dense(), **{s: parse(s, length) for s in settings}}
        for index in indices:
            left = {s: k for s, k in kinds.items() if (length, index, s) not in there}
            if not left:
                continue
            asked = _asked(engine, index, length)
            for setting, kind in left.items():
                yield {
                    "length": length,
                    "document": index,
                    "setting": setting,
                    "flops": phase1_work.flops(engine.config, kind, length),
                    "probes": _probe(engine.with_attention(kind), *asked),
                }


def _asked(
    engine: Engine, index: int, length: int
) -> tuple[list[int], list[tuple[str, list[int], int]]]:
    """The document's ids; and of each probe its kind, its ids, and how many of them to score."""
    tokenizer = engine.tokenizer
    head, _ = tokenizer.chat("", "x")
    room = length - tokenizer.count("x") - len(tokenizer.encode_context(head))
    document = documents.document(index, room, tokenizer.count)
    context: list[int] = []
    probes = []
    for probe in document.probes:
        before, after = tokenizer.chat(
            document.text, f"\n\n{probe.question}", answer_prefix=probe.begun
        )
        context = tokenizer.encode_context(before)
        answer = tokenizer.encode_query(probe.answer)
        if probe.kind == "prose":
            answer = answer[: documents.CONTINUATION]
            probes.append((probe.kind, answer, len(answer) - 1))
        else:
            probes.append((probe.kind, tokenizer.encode_query(after) + answer, len(answer)))
    return context, probes


def _probe(
    engine: Engine, context_ids: list[int], probes: Sequence[tuple[str, list[int], int]]
) -> list[dict[str, Any]]:
    """For each probe: nats a token of what is scored; of needles, whether they are found."""
    context, found = engine.prefill(context_ids), []
    for kind in dict.fromkeys(kind for kind, _, _ in probes):  # of like length
        asked = [(ids, count) for other, ids, count in probes if other == kind]
        queries = [ids for ids, _ in asked]
        likelihoods = engine.likelihood(context, queries)
        nlls = [
            -float(one.logprobs[-count:].mean())
            for one, (_, count) in zip(likelihoods, asked, strict=True)
        ]
        rights = _found(engine, context, asked) if kind == "needle" else [None] * len(asked)
        found += [
            {"kind": kind, "nll": round(nll, 6), "right": right}
            for nll, right in zip(nlls, rights, strict=True)
        ]
    return found


def _found(
    engine: Engine, context: Context, asked: Sequence[tuple[list[int], int]]
) -> list[bool | None]:
    """Whether every token of an answer is the likeliest one after those before it."""
    scores = engine.score(context, [ids for ids, _ in asked])
    return [
        bool((logits[-count - 1 : -1].argmax(axis=-1) == ids[-count:]).all())
        for logits, (ids, count) in zip(scores, asked, strict=True)
    ]


def _read(path: pathlib.Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


if __name__ == "__main__":
    cli.run(main)
