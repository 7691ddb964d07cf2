"""Times phase 1 end to end, on CPU: transformers, dense, ring and Star Attention.

    python -m benchmarks.prefill --out=benchmarks/results/prefill_cpu.json

One simulated device, where transformers takes part, and eight. All do the same work: keys and
values of every layer are kept, and of the last layer nothing else is computed. They take turns,
so that a ratio is of times measured next to each other. First of all, each must give the logits
of a short query that transformers gives after the same kind of prefill, Star Attention included.
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
from absl import flags
from jax.sharding import Mesh

import star_jax
from benchmarks import peers
from star_jax import Dense, Engine, Ring, Star
from star_jax.engine import Attention
from star_jax.eval import cli, timing

# Fields of a config.json.
_COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 500000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "small": {
        **_COMMON,
        "vocab_size": 1024,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
    },
    "toy": {
        **_COMMON,
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}

THEIRS, DENSE = "transformers", "dense"  # what others are compared with
QUERY = 8  # tokens of the query that checks
TOLERANCE = 1e-4  # of max|difference| / max(1, max|logit|)

_MODEL = flags.DEFINE_enum("model", "small", MODELS, "The model's shape; its weights are random.")
_LENGTHS = flags.DEFINE_list("lengths", ["4096", "8192", "16384"], "Tokens of the contexts.")
_DEVICES = flags.DEFINE_list("devices", ["1", "8"], "Numbers of simulated devices.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "How often each is timed.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 2, "Of transformers, and of JAX.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "A JSON file for the results.")
_PART = flags.DEFINE_string(
    "part", None, "Internal: where the run on one number of devices writes."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that is timed."""

    name: str
    prefill: Callable[[], Any]  # returns when it is done
    difference: Callable[[Any], float]  # between its logits and transformers', after a prefill


def main(argv: Sequence[str]) -> None:
    del argv
    lengths, devices = _integers("lengths", _LENGTHS.value), _integers("devices", _DEVICES.value)
    if _PART.value is not None:
        torch.set_num_threads(_THREADS.value)
        star_jax.simulate_cpu_devices(devices[0])
        mesh = star_jax.make_mesh(context=devices[0])
        results = measure(MODELS[_MODEL.value], lengths, mesh, rounds=_ROUNDS.value)
        pathlib.Path(_PART.value).write_text(json.dumps(results))
        return
    out = None if _OUT.value is None else pathlib.Path(_OUT.value)
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"--out={out}: {out.parent} is not a directory")
    results = [result for count in devices for result in _in_a_process(count)]
    if out is not None:
        record = {**_circumstances(), "results": results}
        out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results))


def _integers(name: str, values: list[str]) -> list[int]:
    try:
        found = [int(value) for value in values]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--{name}={','.join(values)} must be integers, at least 1")
    return found


def _in_a_process(devices: int) -> list[dict[str, Any]]:
    """JAX learns the number of its devices once, when it starts."""
    options = [f"--{f.name}={f.value}" for f in (_MODEL, _ROUNDS, _THREADS)]
    options += [f"--lengths={','.join(_LENGTHS.value)}", f"--devices={devices}"]
    threads = str(_THREADS.value)
    env = os.environ | {"NPROC": threads, "OMP_NUM_THREADS": threads}  # NPROC: XLA's own threads
    with tempfile.TemporaryDirectory() as directory:
        part = pathlib.Path(directory) / "results.json"
        command = [sys.executable, "-m", "benchmarks.prefill", *options, f"--part={part}"]
        code = subprocess.run(command, env=env).returncode
        if code:
            raise ValueError(f"the run on {devices=} failed ({code=}): see above")
        return json.loads(part.read_text())


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
        engine = Engine.from_pretrained(directory, mesh=mesh, attention=Dense(), dtype="float32")
    devices, results = mesh.size, []
    for length in lengths:
        ids = np.random.default_rng(length).integers(3, fields["vocab_size"], length + QUERY)
        results += _results(_rows(engine, peer, ids.tolist(), devices), length, devices, rounds)
    return results


def _rows(engine: Engine, peer: peers.Peer, ids: list[int], devices: int) -> list[Row]:
    """What is timed on a number of devices."""
    context, query = ids[:-QUERY], ids[-QUERY:]
    length = len(context)
    exact = peer.score(peer.prefill(context), length, query)

    def row(name: str, attention: Attention, expected: np.ndarray) -> Row:
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
    """Of one length, what is written down."""
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
            f"{row.name}, {what}: logits differ from transformers' by {difference:.2g}, "
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
    """Of each round's times."""
    if base is None:
        return None
    return _spread([b / t for b, t in zip(base, times, strict=True)])


def _circumstances() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "torch", "transformers", "numpy")
    return {
        "command": " ".join(["python -m benchmarks.prefill", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": _THREADS.value,
        "dtype": "float32",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "model": MODELS[_MODEL.value],
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


def table(results: Sequence[dict[str, Any]]) -> str:
    """Seconds, and how many times as fast as dense and as transformers: median (min..max)."""
    head = ["devices", "length", "row", "seconds", "x dense", f"x {THEIRS}", "compile s"]
    lines = [head]
    for r in results:
        lines.append(
            [
                str(r["devices"]),
                str(r["length"]),
                r["row"],
                _cell(r["seconds"]),
                _cell(r["times_as_fast_as_dense"]),
                _cell(r["times_as_fast_as_transformers"]),
                f"{r['compile_seconds']:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    rows = (" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"| {row} |" for row in rows)


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    return f"{spread['median']:.2f} ({spread['min']:.2f}..{spread['max']:.2f})"


if __name__ == "__main__":
    cli.run(main)
