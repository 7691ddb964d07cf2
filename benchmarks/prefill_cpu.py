"""Times phase 1 end to end, on CPU: transformers, dense, ring and Star Attention.

One simulated device, where transformers takes part, and eight. All do the same work: keys and
values of every layer are kept, and of the last layer nothing else is computed. They take turns,
so that a ratio is of times measured next to each other. First of all, each must give the logits
of a short query that transformers gives after the same kind of prefill, Star Attention included.
With halo and correction, which transformers has not, it must give those of masks written out.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jax.sharding import Mesh

import star_jax
from benchmarks import llama_shapes, peers
from benchmarks.variations import Variation
from star_jax import Dense, Engine, Ring, Star
from star_jax.prefill.kinds import Kind
from star_jax.runs import timing

THEIRS, DENSE = "transformers", "dense"  # what others are compared with
MENDED, CHECKED = "star L/8, mended", 1024
QUERY = 8  # tokens of the query that checks
TOLERANCE = 1e-4  # of max|difference| / max(1, max|logit|)


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that is timed."""

    name: str
    prefill: Callable[[], Any]  # returns when it is done
    difference: Callable[[Any], float]  # between its logits and transformers', after a prefill


def run(
    model: str, lengths: Sequence[int], devices: Sequence[int], *, rounds: int, threads: int
) -> dict[str, Any]:
    """Checks and times a model on each number of simulated devices.

    Raises:
      ValueError: logits are not those of transformers.
    """
    options = [f"--model={model}", f"--rounds={rounds}", f"--threads={threads}"]
    options.append(f"--lengths={','.join(map(str, lengths))}")
    results = [r for count in devices for r in _in_a_process(count, options, threads)]
    return {**_circumstances(model, threads), "results": results}


def part(
    model: str, lengths: Sequence[int], devices: int, *, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """The results on one number of devices; in a process of its own."""
    torch.set_num_threads(threads)
    star_jax.simulate_cpu_devices(devices)
    mesh = star_jax.make_mesh(context=devices)
    return measure(llama_shapes.CPU[model], lengths, mesh, rounds=rounds)


def _in_a_process(devices: int, options: list[str], threads: int) -> list[dict[str, Any]]:
    """JAX learns the number of its devices once, when it starts."""
    # NPROC: XLA's own threads
    env = os.environ | {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "results.json"
        options = [*options, f"--devices={devices}", f"--part={out}"]
        command = [sys.executable, "-m", "benchmarks.prefill", *options]
        code = subprocess.run(command, env=env).returncode
        if code:
            raise ValueError(f"the run on {devices=} failed ({code=}): see above")
        return json.loads(out.read_text())


def measure(
    fields: dict[str, Any], lengths: Sequence[int], mesh: Mesh, *, rounds: int
) -> list[dict[str, Any]]:
    """Checks and times all rows at all lengths, on the devices of a mesh.

    Raises:
      ValueError: logits are not those of transformers.
    """
    peer = peers.Peer(peers.build(fields))
    with tempfile.TemporaryDirectory() as directory:
        peers.save(peer.model, pathlib.Path(directory))
        engine, alone = (
            Engine.from_pretrained(directory, mesh=m, attention=Dense(), dtype="float32")
            for m in (mesh, star_jax.make_mesh())
        )
    devices, results = mesh.size, []
    for length in lengths:
        ids = np.random.default_rng(length).integers(3, fields["vocab_size"], length + QUERY)
        rows = _rows(engine, peer, ids.tolist(), devices)
        rows.append(_mended_row(engine, alone, ids.tolist()))
        results += _results(rows, length, devices, rounds)
    return results


def mended(length: int) -> Star:
    """The recommended setting, with blocks of L/8: see docs/mending.md."""
    block = -(-length // 8)
    anchor, halo = block // 4, 3 * block // 4
    return Star(block_size=block, anchor_size=anchor, halo=halo, correction="both", stride=64)


def _mended_row(engine: Engine, alone: Engine, ids: list[int]) -> Row:
    """It is checked by one device, and on a shorter context by masks that are written out.

    They hold all scores at once.
    """
    context, query = ids[:-QUERY], ids[-QUERY:]
    own, single = (e.with_attention(mended(len(context))) for e in (engine, alone))
    short = context[:CHECKED]
    star = mended(len(short))
    literal = Variation(
        block=star.block_size,
        anchor=star.anchor,
        halo=star.halo,
        stride=star.stride,
        correction=str(star.correction),
    )

    def difference(state: Any) -> float:
        by_masks = alone.with_attention(literal)
        expected = by_masks.score(by_masks.prefill(short), query)
        same = engine.with_attention(star)
        found = _difference(same.score(same.prefill(short), query), expected)
        expected = single.score(single.prefill(context), query)
        return max(found, _difference(own.score(state, query), expected))

    return Row(MENDED, lambda: own.prefill(context).block_until_ready(), difference)


def _rows(engine: Engine, peer: peers.Peer, ids: list[int], devices: int) -> list[Row]:
    """What is timed on a number of devices."""
    context, query = ids[:-QUERY], ids[-QUERY:]
    length = len(context)
    exact = peer.score(peer.prefill(context), length, query)

    def row(name: str, attention: Kind, expected: np.ndarray) -> Row:
        own = engine.with_attention(attention)
        return Row(
            name,
            lambda: own.prefill(context).block_until_ready(),
            lambda state: _difference(own.score(state, query), expected),
        )

    rows = [row(DENSE, Dense(), exact), row("ring", Ring(), exact)]
    for blocks in (4, 8) if devices == 1 else (devices,):
        block = -(-length // blocks)
        expected = peer.score(peer.star(context, block), length, query)
        rows.append(row(f"star L/{blocks}", Star(block_size=block), expected))
    if devices == 1:
        rows.insert(0, Row(THEIRS, lambda: peer.prefill(context), lambda state: 0.0))
    return rows


def _difference(logits: Any, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))


def _results(rows: list[Row], length: int, devices: int, rounds: int) -> list[dict[str, Any]]:
    """What is written down of one length."""
    first = {row.name: _first(row, f"{length=}, {devices=}") for row in rows}
    times: dict[str, list[float]] = {row.name: [] for row in rows}
    for i in range(rounds):
        start = i % len(rows)  # nobody always comes after the same one
        for row in (*rows[start:], *rows[:start]):
            times[row.name].append(_time(row))
        said = "  ".join(f"{name} {values[-1]:.2f}" for name, values in times.items())
        print(f"devices {devices}, length {length}, round {i + 1}: {said}", file=sys.stderr)
    return [
        {
            "devices": devices,
            "length": length,
            "row": name,
            **first[name],
            "seconds": _spread(values),
            "rounds": values,
            "times_as_fast_as_dense": _ratios(times[DENSE], values),
            "times_as_fast_as_transformers": _ratios(times.get(THEIRS), values),
        }
        for name, values in times.items()
    ]


def _first(row: Row, what: str) -> dict[str, float]:
    """Compiles and checks.

    Raises:
      ValueError: logits are not those of transformers.
    """
    with timing.Stopwatch() as watch:
        state = row.prefill()
    difference = row.difference(state)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{row.name}, {what}: logits differ from what they must be by {difference:.2g}, "
            f"more than {TOLERANCE}"
        )
    return {"compile_seconds": watch.compile_seconds, "difference": difference}


def _time(row: Row) -> float:
    start = time.perf_counter()
    state = row.prefill()
    seconds = time.perf_counter() - start
    del state  # not part of what is timed
    return seconds


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _ratios(base: Sequence[float] | None, times: Sequence[float]) -> dict[str, float] | None:
    """The ratios of each round's times."""
    if base is None:
        return None
    return _spread([b / t for b, t in zip(base, times, strict=True)])


def _circumstances(model: str, threads: int) -> dict[str, Any]:
    packages = ("jax", "jaxlib", "torch", "transformers", "numpy")
    return {
        "command": " ".join(["python -m benchmarks.prefill", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "dtype": "float32",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "model": llama_shapes.CPU[model],
    }


def _cpu() -> str:
    """The processor, as far as the system says."""
    said: dict[str, str] = {}
    path = pathlib.Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    name = said.get("model name") or platform.processor() or platform.machine()
    family, model = said.get("cpu family"), said.get("model")
    return f"{name} (family {family}, model {model})" if family else name
