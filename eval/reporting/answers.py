"""The answers of a run, read back from its output directory into plain records."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from star_jax import json_files
from star_jax.printable import printable
from star_jax.runs.places import check_regular

HOW = ("block_size", "anchor_size", "halo", "correction", "stride")  # of a row, where it has them
TIMES = ("time_prefill", "time_decode", "time_compile")
_COUNTS = ("n_context_tokens", "n_query_tokens", "n_generated")
_PERPLEXITY = "perplexity"  # the metric that has no scores


class Answers(list[dict[str, Any]]):
    """Records of answers, a dictionary each; see `load`."""

    def to_pandas(self) -> Any:
        """The same as a data frame, one row per answer.

        Raises:
          ImportError: pandas is not installed.
        """
        import pandas as pd  # optional

        return pd.DataFrame(list(self))


@dataclasses.dataclass(frozen=True)
class Cell:
    """The answers of one row to one task at one length.

    row: its kind, whether it is exact, and its sizes and all. settings: what the configuration
    called it. samples: how many answers there will be.
    """

    task: str
    length: int | None
    name: str
    row: Mapping[str, Any]
    settings: Sequence[str]
    samples: int
    answers: Answers

    @property
    def metric(self) -> str:
        return str(self.answers[0]["metric"])

    @property
    def is_share(self) -> bool:
        """Whether there are scores, from 0 to 1, which have means over tasks."""
        return self.metric != _PERPLEXITY


@dataclasses.dataclass(frozen=True)
class Run:
    """An output directory, read.

    name: what the report calls it. how: the settings of the manifest. cells: those with answers.
    unread: how many answers are still to come. unbegun: by length, the tasks that have none yet.
    """

    name: str
    directory: str
    model: str
    suite: str
    how: Mapping[str, Any]
    cells: Sequence[Cell]
    unread: int
    unbegun: Mapping[int | None, frozenset[str]]


def load(directory: str | os.PathLike[str]) -> Answers:
    """The answers of a run of `python -m star_jax.eval`, finished or not: a dictionary for each.

    Each has:
      run, model, suite, task, length: where it belongs. length is None where questions have none.
      row: the name of the way to encode contexts; setting: a list of what the configuration called
        it (a row of `L/4` has another name at each length, and one setting). Its kind, is_exact,
        and block_size, anchor_size, halo, correction and stride, None where it has none; `more`: a
        dictionary of what else it has.
      index, question: of the sample, and a hash of its text: equal where questions are the same.
      input_query, outputs, pred: the texts, without the context, which may be long.
      others: what a line of your own file had under this name.
      score, metric: what the metric says of pred, from 0 to 1; None without outputs.
      logprob, n_scored: where the metric is "perplexity", which has no scores: the log-probability
        of the first of outputs, and how many tokens it has.
      n_context_tokens, n_query_tokens, n_generated, stop_reason.
      needles: the tokens, [start, end], that the answers are read from; depths: of each needle's
        middle, 0 to 1; depth: that of the only needle, None if there are more or none.
      needle_cut: whether a block edge cuts a needle; None without needles or blocks.
      time_prefill, time_decode, time_compile: seconds.

    Raises:
      ValueError, OSError: it is no run, has no answers yet, or a record is broken.
    """
    run = read(os.fspath(directory))
    return Answers(answer for cell in run.cells for answer in cell.answers)


def read(directory: str, *, name: str = "") -> Run:
    """A run with its cells; see `load`. name: what to call it, else the directory's."""
    name = name or os.path.basename(os.path.abspath(directory))
    manifest = _manifest(directory)
    model, how = manifest["model"], manifest["settings"]
    cells: list[Cell] = []
    planned = 0
    unbegun: dict[int | None, frozenset[str]] = {}
    for one in manifest["cells"]:
        before = len(cells)
        for row, settings in one["rows"].items():
            planned += one["samples"]
            folder = "all" if one["length"] is None else str(one["length"])
            path = os.path.join(directory, row, folder, f"{one['task']}.jsonl")
            about = {"run": name, "model": model, "suite": how["data.suite"], "task": one["task"]}
            about |= {"length": one["length"], "row": row, "setting": settings}
            answers = Answers(_records(path, about | _shown(manifest["rows"][row])))
            if answers:
                what = (one["task"], one["length"], row, manifest["rows"][row], settings)
                cells.append(Cell(*what, one["samples"], answers))
        if len(cells) == before:
            unbegun[one["length"]] = unbegun.get(one["length"], frozenset()) | {one["task"]}
    done = sum(len(cell.answers) for cell in cells)
    if not done:
        raise ValueError(f"{directory}: no answers yet; give its eval command again to go on")
    unread = max(0, planned - done)
    return Run(name, directory, model, how["data.suite"], how, cells, unread, unbegun)


def _manifest(directory: str) -> dict[str, Any]:
    if not os.path.isdir(directory):
        raise ValueError(f"{directory}: there is no such directory")
    path = os.path.join(directory, "manifest.json")
    if not os.path.lexists(path):
        raise ValueError(f"{directory}: not the output of an evaluation: no manifest.json in it")
    manifest = json_files.read(path)
    if "settings" in manifest and "cells" not in manifest:
        raise ValueError(
            f"{path}: from before there were reports; give its eval command again, which adds what "
            "is missing"
        )
    try:
        rows, suite = manifest["rows"], manifest["settings"]["data.suite"]
        is_sound = isinstance(manifest["model"], str) and isinstance(suite, str)
        for cell in manifest["cells"]:
            is_sound &= isinstance(cell["task"], str) and type(cell["samples"]) is int
            is_sound &= cell["length"] is None or type(cell["length"]) is int
            is_sound &= all(map(_are_texts, cell["rows"].values()))
            is_sound &= all({"kind", "is_exact"} <= rows[row].keys() for row in cell["rows"])
        is_sound &= all(map(_has_sizes, rows.values()))
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: not the manifest of an evaluation") from e
    if not is_sound:
        raise ValueError(f"{path}: not the manifest of an evaluation")
    return manifest


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _has_sizes(row: Mapping[str, Any]) -> bool:
    """Whether the sizes of a row are in tokens, or are not there."""
    block, anchor = row.get("block_size"), row.get("anchor_size")
    is_block = block is None or (type(block) is int and block > 0)
    return is_block and (anchor is None or (type(anchor) is int and anchor >= 0))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields as records have them."""
    more = {name: row[name] for name in row.keys() - {"kind", "is_exact", *HOW}}
    known = {name: row.get(name) for name in ("kind", "is_exact", *HOW)}
    return known | {"more": dict(sorted(more.items()))}


def _records(path: str, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The records of a file, if it is there; a torn last line, of a killed run, is passed over."""
    check_regular(path)
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                break
            try:
                yield {**about, **_record(text)}
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
                reason = printable(str(e)) if type(e) is ValueError else "a field is missing"
                raise ValueError(f"{path}:{number}: not a record of an answer ({reason})") from e


def _record(text: bytes) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as e:
        raise ValueError("not JSON") from e
    numbers = {name: given[name] for name in (*_COUNTS, *TIMES)}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not 0 <= value < 2**53:
            raise ValueError(f"{name} is no number from 0")
    score, metric = given["score"], str(given["metric"])
    if score is not None and (type(score) not in (int, float) or not 0 <= score <= 1):
        raise ValueError("a score is a number from 0 to 1")
    logprob, scored = given.get("logprob"), given.get("n_scored", 0)
    if logprob is not None and (type(logprob) not in (int, float) or not scored > 0):
        raise ValueError("a log-probability is a number, of some tokens")
    if type(given["index"]) is not int:
        raise ValueError("an index is a whole number")
    needles = [(int(start), int(end)) for start, end in given["needles"]]
    if not all(0 <= start <= end < 2**53 for start, end in needles):
        raise ValueError("a needle is where tokens begin and end")
    context = max(1, given["n_context_tokens"])
    depths = [min(1.0, (start + end) / 2 / context) for start, end in needles]
    asked = f"{given['input_context']}\0{given['input_query']}\0{given['outputs']}"
    return {
        "index": given["index"],
        "question": hashlib.blake2b(asked.encode(errors="replace"), digest_size=8).hexdigest(),
        **{name: given[name] for name in ("input_query", "outputs", "pred", "others")},
        "score": None if score is None else float(score),
        "metric": metric,
        "logprob": logprob,
        "n_scored": scored,
        **{name: float(value) if name in TIMES else value for name, value in numbers.items()},
        "stop_reason": given.get("stop_reason"),
        "needles": needles,
        "depths": depths,
        "depth": depths[0] if len(depths) == 1 else None,
        "needle_cut": given.get("needle_cut"),
    }
