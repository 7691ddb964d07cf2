"""The prefill benchmark: as a command, at toy size; and it refuses to time what is wrong."""

import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

import star_jax
from benchmarks import llama_shapes, peers, prefill, prefill_cpu, prefill_table

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = ["--model=toy", "--lengths=256", "--rounds=2", "--devices=1,2"]


def test_the_command_times_one_device_and_several(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.prefill", *OPTIONS, f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m benchmarks.prefill --model=toy --lengths=256 ")
    assert set(record["versions"]) >= {"python", "jax", "jaxlib", "torch", "transformers"}
    assert record["model"] == llama_shapes.CPU["toy"] and record["cpu"] and record["date"]
    one = [prefill_cpu.THEIRS, prefill_cpu.DENSE, "ring", "star L/4", "star L/8"]
    one.append(prefill_cpu.MENDED)
    expected = [(1, 256, row) for row in one]
    expected += [
        (2, 256, row) for row in (prefill_cpu.DENSE, "ring", "star L/2", prefill_cpu.MENDED)
    ]
    results = record["results"]
    assert [(r["devices"], r["length"], r["row"]) for r in results] == expected
    for r in results:
        assert len(r["rounds"]) == 2 and r["difference"] <= prefill_cpu.TOLERANCE
        assert 0 < r["seconds"]["min"] <= r["seconds"]["median"] <= r["seconds"]["max"]
        assert (r["difference"] > 0) == (r["row"] != prefill_cpu.THEIRS)
        assert (r["times_as_fast_as_transformers"] is None) == (r["devices"] == 2)
    assert done.stdout == prefill_table.cpu(results) + "\n"


def star_without_anchor(self, ids, block):
    return self.prefill(ids)


def logits_of_another_query(self, cache, start, ids):
    return SCORE(self, cache, start, ids[::-1])


SCORE = peers.Peer.score


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("score", logits_of_another_query, "dense, length=64, devices=1: logits differ"),
        ("star", star_without_anchor, "star L/4, length=64, devices=1: logits differ"),
    ],
)
def test_nothing_is_timed_that_disagrees_with_transformers(name, wrong, message, monkeypatch):
    monkeypatch.setattr(peers.Peer, name, wrong)
    with pytest.raises(ValueError, match=message):
        prefill_cpu.measure(llama_shapes.CPU["toy"], [64], star_jax.make_mesh(), rounds=1)


def test_a_part_that_fails_fails_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with flagsaver.as_parsed(model="toy", lengths="64"):
        flags.FLAGS.mark_as_parsed()
        with pytest.raises(ValueError, match="devices=1 failed"):
            prefill.main([])


@pytest.mark.parametrize("value", ["0", "a", "", "100000000000", "1" * 5000])
def test_lengths_that_are_none_are_refused(value):
    with flagsaver.as_parsed(lengths=value):
        flags.FLAGS.mark_as_parsed()
        with pytest.raises(ValueError, match=r"must be integers, at least 1|is above 16777216"):
            prefill.main([])


def test_ratios_are_of_each_round():
    ratios = prefill_cpu._ratios([1.0, 4.0, 9.0], [2.0, 2.0, 3.0])
    assert ratios == {"median": 2.0, "min": 0.5, "max": 3.0}
    assert prefill_cpu._ratios(None, [1.0]) is None
