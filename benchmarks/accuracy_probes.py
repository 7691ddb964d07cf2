"""Asks a context that was encoded by each kind of attention what `documents` has to ask."""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import accuracy_table, documents, phase1_work
from star_jax import Dense, Engine
from star_jax.eval.rows import rows
from star_jax.eval.settings import AttentionConfig
from star_jax.prefill.kinds import Kind

NAMES = {
    "block": "block_size",
    "anchor": "anchor_size",
    **{name: name for name in ("halo", "correction", "stride")},
}


def parse(text: str, length: int) -> Kind:
    """A setting at a length, in the words and sizes of an evaluation: `L` is the length.

    Raises:
      ValueError: what is wrong with it.
    """
    fields: dict[str, str] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        if name not in NAMES:
            raise ValueError(f"setting {text!r}: {name!r} is unknown: use {', '.join(NAMES)}")
        fields[NAMES[name]] = value
    if "block_size" not in fields:
        raise ValueError(f"setting {text!r} has no block=...")
    found = rows(AttentionConfig(kind="star", **fields), length)
    if len(found) != 1:
        raise ValueError(f"setting {text!r} is {len(found)}: give each as one --setting")
    return found[0].attention


def kinds_of(settings: Sequence[str], length: int) -> dict[str, Kind]:
    """Exact attention, and each setting at this length."""
    found: dict[str, Kind] = {"exact": Dense()}
    return found | {text: parse(text, length) for text in settings}


def run(
    engine: Engine,
    kinds: Mapping[int, Mapping[str, Kind]],
    indices: Sequence[int],
    records: str | None,
) -> list[dict[str, Any]]:
    """Asks all documents that are not in the records yet; returns the summary of all records.

    kinds: of attention, by length and by name. records: a file of JSON lines; None: none.

    Raises:
      ValueError: the records are of another model or text.
    """
    path = pathlib.Path(records) if records else None
    done = read(path, about(engine)) if path else []
    for length, some in kinds.items():
        for one in measure(engine, length, indices, some, done):
            done.append(one)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(one) + "\n")
    order = list(dict.fromkeys(name for some in kinds.values() for name in some))
    done.sort(key=lambda one: [*order, one["setting"]].index(one["setting"]))
    return accuracy_table.summarise(done, indices)


def measure(
    engine: Engine,
    length: int,
    indices: Sequence[int],
    kinds: Mapping[str, Kind],
    done: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """A record for each document and kind of attention, by its name, that is not done."""
    there = {(r["length"], r["document"], r["setting"]) for r in done}
    for index in indices:
        left = {name: k for name, k in kinds.items() if (length, index, name) not in there}
        if not left:
            continue
        context_ids, probes = asked(engine, index, length)
        for name, kind in left.items():
            yield {
                "length": length,
                "document": index,
                "setting": name,
                "flops": phase1_work.flops(engine.config, kind, length),
                "probes": _probe(engine.with_attention(kind), context_ids, probes),
            }


def asked(
    engine: Engine,
    index: int,
    length: int,
    *,
    continuation: int = documents.CONTINUATION,
    needles: int = documents.NEEDLES,
) -> tuple[list[int], list[tuple[str, list[int], int]]]:
    """The document's ids; and of each probe its kind, its ids, and how many of them to score.

    continuation: tokens of the prose after it, at most.
    """
    tokenizer = engine.tokenizer
    head, _ = tokenizer.chat("", "x")
    room = length - tokenizer.count("x") - len(tokenizer.encode_context(head))
    document = documents.document(index, room, tokenizer.count, needles=needles)
    context: list[int] = []
    probes = []
    for probe in document.probes:
        before, after = tokenizer.chat(
            document.text, f"\n\n{probe.question}", answer_prefix=probe.begun
        )
        context = tokenizer.encode_context(before)
        answer = tokenizer.encode_query(probe.answer)
        if probe.kind == "prose":
            answer = answer[:continuation]
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
        if kind == "needle":
            scores = engine.score(context, queries)
            found += [answered(*one) for one in zip(scores, asked, strict=True)]
            continue
        for one, (_, count) in zip(engine.likelihood(context, queries), asked, strict=True):
            nll = -float(one.logprobs[-count:].mean())
            found.append({"kind": kind, "nll": round(nll, 6), "right": None})
    return found


def answered(logits: np.ndarray, asked: tuple[list[int], int]) -> dict[str, Any]:
    """What became of a needle: it is found if every token is the likeliest one after the others."""
    ids, count = asked
    rows, wanted = logits[-count - 1 : -1].astype(np.float64), np.asarray(ids[-count:])
    top = rows.max(axis=-1)
    lse = top + np.log(np.exp(rows - top[:, None]).sum(axis=-1))
    nll = lse - rows[np.arange(count), wanted]
    right = bool((rows.argmax(axis=-1) == wanted).all())
    return {"kind": "needle", "nll": round(float(nll.mean()), 6), "right": right}


def about(engine: Engine) -> dict[str, Any]:
    """What records are of: another model or another Python's manual makes others."""
    mine = engine.fingerprint
    text = hashlib.sha256("\n".join(documents.sentences()).encode()).hexdigest()[:16]
    return {
        "weights": mine.weights,
        "tokenizer": mine.tokenizer,
        "dtype": mine.dtype,
        "sentences": text,
    }


def read(path: pathlib.Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records in a file of JSON lines, which begins with what they are of.

    Raises:
      ValueError: they are of something else, or no such records.
    """
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
    whole = whole or json.dumps({"of": about}) + "\n"
    if whole != text:
        path.write_text(whole)
    try:
        first, *records = map(json.loads, whole.splitlines())
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is no file of records: {e}") from e
    if first != {"of": about}:
        raise ValueError(f"{path} begins with {first}, and this run is of {about}")
    return records
