"""Output directories of evaluations, written without any model: many rows, tasks and lengths."""

import json
import math
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_jax.eval import naming
from star_jax.eval.config import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)
from star_jax.eval.reporting import build
from star_jax.eval.suites import Cell
from star_jax.runs import records

Score = Callable[[str, str, int | None, int], float | None]  # row, task, length, index
DPI = 40  # small pictures are drawn fast


def write(
    folder: pathlib.Path,
    score: Score,
    *,
    tasks: Sequence[str] = ("niah_single_1",),
    lengths: Sequence[int | None] = (512, 1024),
    samples: int = 4,
    answered: int | None = None,
    model: str = "checkpoints/needle",
    suite: str = "ruler",
    seed: int = 0,
    metric: Mapping[str, str] | None = None,
    **attention: str,
) -> pathlib.Path:
    """A run in `folder`: a row's answer `index` to a task scores what `score` says.

    answered: of each cell; the others are still to come. metric: by task. A needle stands in each
    context, at a depth that its index says.
    """
    given = {"kind": "dense,star", "block_size": "L/4", "anchor_size": "b"} | attention
    config = EvalConfig(
        ModelConfig(model),
        AttentionConfig(**given),
        MeshConfig(),
        DataConfig(suite=suite, seed=seed),
        GenerationConfig(),
        str(folder),
    )
    cells = [
        Cell(task, length, length, range(samples), lambda position: None, 9)  # type: ignore[arg-type, return-value]
        for length in lengths
        for task in tasks
    ]
    folder.mkdir(parents=True, exist_ok=True)
    about = naming.about(config, cells)
    settings = {"data.suite": suite, "data.template": "llama3", "data.seed": seed}
    settings |= {"mesh.device": "cpu", "mesh.data": 1, "mesh.context": 4, "mesh.tensor": 1}
    manifest = str(folder / "manifest.json")
    records.write_manifest(manifest, settings, num_samples=samples, about=about)
    for cell in about["cells"]:
        for row in cell["rows"]:
            path = folder / row / str(cell["length"] or "all") / f"{cell['task']}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            name = (metric or {}).get(cell["task"], "string_match_all")
            lines = [
                record(score, row, about["rows"][row], cell, i, seed, name)
                for i in range(samples if answered is None else answered)
            ]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def record(
    score: Score,
    row: str,
    how: Mapping[str, Any],
    cell: Mapping[str, Any],
    index: int,
    seed: int,
    metric: str,
) -> dict[str, Any]:
    """A record as the evaluation writes it."""
    task, length = cell["task"], cell["length"]
    tokens = (length or 300) - 20
    start = int(tokens * ((index * 0.37 + 0.05) % 0.95))
    given = score(row, task, length, index)
    likelihood = {}
    if metric == "perplexity" and given is not None:  # then it is the perplexity
        scored = 5 + index
        likelihood = {"logprob": -scored * math.log(given), "n_scored": scored}
        given = None
    time = tokens / 1000 * (1.0 if how["is_exact"] else 0.3 + 0.5 * how["block_size"] / tokens)
    return {
        "index": index,
        "pred": "" if not given else f"it is {index}",
        "input_context": f"context {seed} {task} {length} {index}",
        "input_query": f"what is {index}?",
        "outputs": [] if given is None and not likelihood else [str(index)],
        "others": {},
        "score": given,
        "metric": metric,
        **likelihood,
        "n_context_tokens": tokens,
        "n_query_tokens": 12,
        "n_generated": 5,
        "stop_reason": "eos",
        "needles": [[start, start + 10]] if task.startswith("niah") else [],
        "needle_cut": None,
        "time_prefill": round(time, 6),
        "time_decode": 0.5,
        "time_compile": 2.0 if index == 0 else 0.0,
    }


def plausible(row: str, task: str, length: int | None, index: int) -> float:
    """Scores as a real run may have them: worse for longer contexts and for what is cut short."""
    rng = random.Random(f"{task} {length} {index}")  # the same question is hard for every row
    hard = {"niah_multikey_3": 0.6, "cwe": 0.35, "vt": 0.75, "qa_2": 0.5}.get(task, 0.95)
    worse = 0.0 if row == "dense" else 0.02 + 0.25 * ("_a0" in row)
    chance = hard - worse - 0.03 * ((length or 1024).bit_length() - 14)
    if task in ("vt", "cwe"):
        return sum(rng.random() < chance for _ in range(5)) / 5
    return float(rng.random() < chance)


def change(
    folder: pathlib.Path,
    pattern: str,
    how: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
) -> None:
    """Puts other records in the place of those in the files that fit a pattern: ring/*/*.jsonl."""
    paths = list(folder.glob(pattern))
    assert paths, pattern
    for path in paths:
        lines = how([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def report(
    *directories: pathlib.Path, output: pathlib.Path | None = None, tolerance: float = 1.0
) -> tuple[str, pathlib.Path]:
    """Builds the report of runs; returns its page and its directory."""
    output = output or directories[0] / "report"
    build.build(list(map(str, directories)), output=str(output), tolerance=tolerance, dpi=DPI)
    return (output / "index.html").read_text(), output
