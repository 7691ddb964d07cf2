"""The prefill benchmark of one GPU: as a command, at toy size on a CPU; and what it refuses."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import commands
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

import star_jax
from benchmarks import llama_shapes, prefill, prefill_gpu, prefill_table
from benchmarks.prefill_gpu import Row
from star_jax import models
from star_jax.attention import partial_attention
from star_jax.prefill import waves
from star_jax.runtime import runtime

ROOT = pathlib.Path(__file__).parents[2]
TOY = llama_shapes.GPU["gpu_toy"]
CONFIG = models.from_dict(TOY)


def test_the_command_times_each_row_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "results.json"
    options = ["--model=gpu_toy", "--lengths=64,48", "--blocks=32", "--rounds=2", f"--out={out}"]
    command = [sys.executable, "-m", "benchmarks.prefill", *options]
    environment = os.environ | {"PYTHONPATH": commands.AS_USERS}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m benchmarks.prefill --model=gpu_toy ")
    assert record["device"] == "cpu" and record["model"] == TOY and record["dtype"] == "bfloat16"
    results = record["results"]
    rows = [(r["row"], r["implementation"], r["length"]) for r in results]
    expected = [("dense", "xla"), ("star b=32", "xla"), ("dense", "cudnn")]
    assert rows == [(*row, length) for row in expected for length in (48, 64)]
    for r in results:
        if r["implementation"] == "cudnn":
            assert "cudnn needs an NVIDIA GPU" in r["reason"]
            continue
        assert len(r["rounds"]) == 2 and 0 < r["difference"] <= prefill_gpu.TOLERANCE
        assert 0 < r["seconds"]["min"] <= r["seconds"]["median"] <= r["seconds"]["max"]
    assert done.stdout == prefill_table.of(record) + "\n"


def test_what_is_wrong_leaves_nothing_behind(monkeypatch, tmp_path):
    def run(*args, rounds):
        yield {"results": []}
        raise prefill_gpu.Wrong("keys and values differ")

    monkeypatch.setattr(prefill_gpu, "run", run)
    out = tmp_path / "results.json"
    with flagsaver.as_parsed(model="gpu_toy", out=str(out)):
        flags.FLAGS.mark_as_parsed()
        with pytest.raises(prefill_gpu.Wrong, match="keys and values differ"):
            prefill.main([])
    assert not out.exists()


def without_the_anchor(q, segments, *, implementation, **options):
    if implementation != "reference":
        segments = segments[-1:]
    return partial_attention(q, segments, implementation=implementation, **options)


def test_what_is_wrong_is_not_timed(monkeypatch, tmp_path):
    waves.programs.cache_clear()
    monkeypatch.setattr(runtime, "partial_attention", without_the_anchor)
    try:
        with pytest.raises(prefill_gpu.Wrong, match="keys and values differ from those of"):
            list(prefill_gpu.measure(Row(32), TOY, [64], star_jax.make_mesh(), rounds=1))
        asked = {"row": {"block": 32}, "model": "gpu_toy", "lengths": [64], "rounds": 1}
        with pytest.raises(SystemExit) as exited:
            prefill_gpu._part(asked | {"out": str(tmp_path / "part.json")})
        assert exited.value.code == prefill_gpu.WRONG
    finally:
        waves.programs.cache_clear()


def test_what_does_not_fit_is_written_down_and_nothing_longer_is_tried(monkeypatch):
    def times(engine, length, rounds):
        if length > 64:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return {"seconds": {"median": 1.0}, "peak_bytes": None}

    monkeypatch.setattr(prefill_gpu, "_times", times)
    monkeypatch.setattr(prefill_gpu, "check", lambda *args: 0.01)
    mesh = star_jax.make_mesh()
    found = list(prefill_gpu.measure(Row(32), TOY, [64, 128, 256], mesh, rounds=1))
    reasons = [r.get("reason") for r in found]
    assert reasons == [None, "out of memory", "not tried: 128 tokens were too many"]


@pytest.mark.parametrize("fails", ["check", "random_model"])
def test_what_fails_before_anything_is_timed_is_a_reason(fails, monkeypatch):
    def fail(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(prefill_gpu, "check", lambda *args: 0.01)
    monkeypatch.setattr(prefill_gpu, fails, fail)
    found = list(prefill_gpu.measure(Row(32), TOY, [64, 128], star_jax.make_mesh(), rounds=1))
    assert [r["reason"] for r in found] == ["out of memory"] * 2


def processes(monkeypatch, exits):
    """Instead of each row's: (the lengths that it has finished, or None; how it exits)."""
    left = iter(exits)

    def run(command):
        asked, (lengths, code) = json.loads(command[-1]), next(left)
        if lengths is not None:
            row = Row(**asked["row"])
            done = [prefill_gpu._result(row, n, seconds={"median": 1.0}) for n in lengths]
            part = {"circumstances": {"device": "a GPU"}, "results": done}
            pathlib.Path(asked["out"]).write_text(json.dumps(part))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(prefill_gpu.subprocess, "run", run)
    return prefill_gpu.run("gpu_toy", [64, 128], [32], rounds=1)


def test_a_process_that_fails_keeps_what_it_has_finished_and_the_rest_goes_on(monkeypatch):
    *_, record = processes(monkeypatch, [(None, 1), ([64], -9), ([64, 128], 0)])
    assert record["device"] == "a GPU"
    assert [(r["row"], r["length"], r.get("reason")) for r in record["results"]] == [
        ("dense", 64, "its process failed (code=1)"),
        ("dense", 128, "its process failed (code=1)"),
        ("star b=32", 64, None),
        ("star b=32", 128, "its process failed (code=-9)"),
        ("dense", 64, None),
        ("dense", 128, None),
    ]
    with pytest.raises(ValueError, match="nothing could be timed"):
        list(processes(monkeypatch, [(None, 1)] * 3))


def test_a_process_that_finds_something_wrong_fails_the_run(monkeypatch):
    records = processes(monkeypatch, [([64, 128], 0), ([], prefill_gpu.WRONG)])
    assert len(next(records)["results"]) == 2
    with pytest.raises(prefill_gpu.Wrong, match="is wrong: see above"):
        next(records)


def test_rows_that_are_the_same_or_take_too_long_are_left_out():
    dense, blocks = Row(None), Row(16384)
    assert dense.takes(131072) and not dense.takes(2**20)
    assert blocks.takes(2**20) and not blocks.takes(16384)


def test_activations_of_the_random_model_stay_of_the_size_of_one():
    deep = dataclasses.replace(CONFIG, num_layers=8)
    model = prefill_gpu.random_model(deep)
    context = star_jax.Engine(model, mesh=star_jax.make_mesh(), attention=star_jax.Dense()).prefill(
        list(range(3, 103))
    )
    layer: Any = context.groups[0].cache.layers[-1]
    last = layer.k[:, :100].astype(jnp.float32)
    assert 0.3 < float(jnp.std(last)) < 3
    assert model.layers[0].attention.q_weight[...].dtype == jnp.bfloat16


def test_the_table_compares_with_the_fastest_dense_attention():
    def result(block, implementation, seconds, **more):
        row = Row(block, implementation)
        spread = {"seconds": {"median": seconds}, "peak_bytes": 2**34}
        return prefill_gpu._result(row, 131072, **(spread | more))

    results = [
        result(None, "mosaic", 9.0),
        result(None, "cudnn", 8.0),
        result(16384, "mosaic", 4.0),
    ]
    failed = prefill_gpu._result(Row(16384), 2**20, reason="out of memory")
    record = {
        "device": "an H200",
        "date": "today",
        "dtype": "bfloat16",
        "versions": {"jax": "1"},
        "model": TOY,
        "results": [*results, failed],
    }
    text = " ".join(prefill_table.of(record).split())
    assert "| 131072 | star b=16384 | mosaic | 4 | 32768 | 2.00 | 16.0 |" in text
    assert "| 131072 | dense | mosaic | 9 | 14564 | 0.89 | 16.0 |" in text
    assert "| 1048576 | star b=16384 | - | out of memory | - | - | - |" in text
    assert text.endswith("measured: 2.00. Not measured: star b=16384, out of memory")
