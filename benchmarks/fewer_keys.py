"""What answers lose where a context keeps fewer keys, against the bytes that it keeps.

    python -m benchmarks.fewer_keys --model=checkpoints/needle --dtype=float32 --length=1024 \\
        --documents=50 --records=benchmarks/results/fewer_keys_needle.jsonl
    python -m benchmarks.fewer_keys --model=checkpoints/smollm2 --length=2048 --blocks=4 \\
        --needles=8 --documents=25 --caches=model,int8 \\
        --records=benchmarks/results/fewer_keys_smollm2.jsonl

A document has needles, all asked in one batch, teacher-forced; one of prose also a continuation.
Records are written document by document and cell by cell, and a run that is started again goes on
from them. The table of all records, a CSV file beside them, is written at the end, or by --table.
"""

import csv
import dataclasses
import itertools
import json
import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

import star_jax
from benchmarks import accuracy_probes
from star_jax import Engine, Keep, Star
from star_jax.eval.ruler import niah
from star_jax.prefill.criteria import CRITERIA
from star_jax.runs import cli

CONTINUATION = 512  # tokens at most

Asked = list[tuple[str, list[int], int]]  # of a probe: its kind, its ids, how many to score


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_string("model", "checkpoints/needle", "A checkpoint.")
    flags.DEFINE_string("dtype", "bfloat16", "Of weights, activations and cache.")
    flags.DEFINE_integer("length", 1024, "Tokens of a document.", lower_bound=1)
    flags.DEFINE_integer("blocks", 8, "Blocks of a document.", lower_bound=1)
    flags.DEFINE_integer("needles", 4, "Of a document; each is asked for.", lower_bound=1)
    flags.DEFINE_integer("documents", 50, "How many.", lower_bound=1)
    flags.DEFINE_list("shares", ["0.75", "0.5", "0.25"], "Of the keys that are kept.")
    flags.DEFINE_list("criteria", [*CRITERIA], "What chooses them.")
    flags.DEFINE_list("caches", ["model"], "The cache's dtypes: model, int8, fp8.")
    flags.DEFINE_string("records", None, "JSON lines; the table goes beside them.", required=True)
    flags.DEFINE_bool("table", False, "Only write the table.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is kept of a context: a row of the table."""

    keep: Keep | None
    cache: str

    @property
    def name(self) -> dict[str, Any]:
        if self.keep is None:
            return {"share": 1.0, "criterion": "", "cache": self.cache}
        return {
            "share": self.keep.share,
            "criterion": self.keep.criterion,
            "cache": self.cache,
        }


def cells(shares: Sequence[str], criteria: Sequence[str], caches: Sequence[str]) -> list[Cell]:
    """All keys, and each share by each criterion, in each dtype."""
    keeps = [
        Keep(share=float(share), criterion=criterion)
        for share, criterion in itertools.product(shares, criteria)
    ]
    return [Cell(keep, cache) for cache in caches for keep in (None, *keeps)]


def noise(
    engine: Engine, keys: Sequence[str], index: int, length: int, needles: int
) -> tuple[list[int], Asked]:
    """A document as the needle model knows them: needles between lines of noise."""
    rng, tokenizer = random.Random(f"{index} {length}"), engine.tokenizer
    if needles > len(keys):
        raise ValueError(f"{needles=} is above {len(keys)}, the keys that the model knows")
    asked = rng.sample(list(keys), needles)
    values = [str(rng.randint(10**6, 10**7 - 1)) for _ in asked]
    said = [
        niah.NEEDLE.format(kind="number", key=key, value=value)
        for key, value in zip(asked, values, strict=True)
    ]
    room = length - tokenizer.count(niah.CONTEXT) - sum(map(tokenizer.count, said)) - 2 * needles
    lines = [niah.NOISE] * (room // tokenizer.count(f"{niah.NOISE}\n"))
    for needle in said:
        lines.insert(rng.randint(0, len(lines)), needle)
    context = niah.CONTEXT.format(kind="number", lines="\n".join(lines))
    probes: Asked = []
    for key, value in zip(asked, values, strict=True):
        question = niah.QUESTION.format(kind="number", key=key)
        question += niah.ANSWER_PREFIX.format(kind="number", key=key) + ":"
        answer = tokenizer.encode_query(f" {value}")
        probes.append(("needle", tokenizer.encode_query(question) + answer, len(answer)))
    return tokenizer.encode_context(context), probes


def probed(engine: Engine, context_ids: list[int], probes: Asked) -> dict[str, Any]:
    """The bytes that a context keeps, and what its answers are worth."""
    context = engine.prefill(context_ids)
    caches = [group.cache.layers for group in context.groups]
    found: dict[str, Any] = {"bytes": sum(x.nbytes for x in jax.tree.leaves(caches))}
    needles = [(ids, count) for kind, ids, count in probes if kind == "needle"]
    scores = engine.score(context, [ids for ids, _ in needles])
    answers = [accuracy_probes.answered(*one) for one in zip(scores, needles, strict=True)]
    found["right"] = [int(answer["right"]) for answer in answers]
    found["needle_nll"] = [answer["nll"] for answer in answers]
    for kind, ids, count in probes:
        if kind == "prose":
            logprobs = engine.likelihood(context, ids).logprobs[-count:]
            found |= {"prose_nll": -float(logprobs.sum(dtype=np.float64)), "prose": count}
    return found


def measure(
    engine: Engine, given: Any, some: Sequence[Cell], done: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A record for each document and cell that is not done."""
    there = {_key(record) for record in done}
    keys = pathlib.Path(given.model, "keys.txt")
    for index in range(given.documents):
        left = [
            cell
            for cell in some
            if _key({"length": given.length, "document": index, **cell.name}) not in there
        ]
        if not left:
            continue
        if keys.exists():
            known = keys.read_text().split()
            asked = noise(engine, known, index, given.length, given.needles)
        else:
            asked = accuracy_probes.asked(
                engine, index, given.length, continuation=CONTINUATION, needles=given.needles
            )
        for cell in left:
            one = _engine(engine, cell)
            found = probed(one, *asked)
            yield {"length": given.length, "document": index, **cell.name, **found}


def _engine(engine: Engine, cell: Cell) -> Engine:
    """The same weights, keeping what the cell says."""
    return engine.with_keep(cell.keep).with_cache(None if cell.cache == "model" else cell.cache)


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("length", "document", "share", "criterion", "cache")
    return tuple(record[name] for name in names)


def table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cell and length, over the documents that all cells of the length have."""
    rows = []
    for length in sorted({record["length"] for record in records}):
        of_length = [record for record in records if record["length"] == length]
        by_cell: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
        for record in of_length:
            by_cell.setdefault(_key(record)[2:], {})[record["document"]] = record
        common = set.intersection(*map(set, by_cell.values()))
        if not common:
            continue
        full = by_cell.get((1.0, "", "model"), {})
        for (share, criterion, cache), found in sorted(by_cell.items(), key=_order):
            some = [found[index] for index in sorted(common)]
            right = [one for record in some for one in record["right"]]
            nll = [one for record in some for one in record["needle_nll"]]
            row = {
                "length": length,
                "share": share,
                "criterion": criterion or "all",
                "cache": cache,
                "documents": len(common),
                "questions": len(right),
                "right": round(100 * float(np.mean(right)), 2),
                "needle_nll": round(float(np.mean(nll)), 4),
                "bytes": some[0]["bytes"],
                "of_plain": _ratio(some, [full[i] for i in sorted(common) if i in full]),
            }
            tokens = sum(record.get("prose", 0) for record in some)
            if tokens:
                total = sum(record["prose_nll"] for record in some)
                row |= {"prose_tokens": tokens, "prose_nll": round(total / tokens, 4)}
            rows.append(row)
    return rows


def _order(item: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    (share, criterion, cache), _ = item
    return cache != "model", cache, -share, criterion


def _ratio(some: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]]) -> float | None:
    """The bytes beside those of all keys in the model's dtype."""
    if len(full) != len(some):
        return None
    return round(sum(r["bytes"] for r in some) / sum(r["bytes"] for r in full), 4)


def about(engine: Engine, *, blocks: int, needles: int) -> dict[str, Any]:
    """What records are of."""
    return accuracy_probes.about(engine) | {"blocks": blocks, "needles": needles}


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    path = pathlib.Path(given.records)
    some = cells(given.shares, given.criteria, given.caches)
    if not given.table:
        star = Star(block_size=-(-given.length // given.blocks))
        engine = Engine.from_pretrained(
            given.model, mesh=star_jax.make_mesh(), attention=star, dtype=given.dtype
        )
        what = about(engine, blocks=given.blocks, needles=given.needles)
        done = accuracy_probes.read(path, what)
        for record in measure(engine, given, some, done):
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
    records = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    rows = table(records)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
