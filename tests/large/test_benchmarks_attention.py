"""The attention benchmark: as a command, at toy size; what it counts; and what it refuses."""

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import get_args

import aot
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import star_jax
from benchmarks import (
    attention_table,
    clock,
    machine,
    measure,
    options,
    oracle,
    ours,
    torch_attention,
)
from benchmarks import problems as problems_lib
from benchmarks.problems import Problem, problems
from star_jax.attention import Partial, reference

ROOT = pathlib.Path(__file__).parents[2]
KINDS = get_args(problems_lib.Kind)


@pytest.fixture
def tiny(monkeypatch):
    """Few heads, sets and samples, and no time to take them in."""
    monkeypatch.setattr(problems_lib, "HEADS", {"8B": (4, 2)})
    monkeypatch.setattr(problems_lib, "MOST_SETS", 2)
    monkeypatch.setattr(clock, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(clock, "COUNT", 3)
    monkeypatch.setattr(clock, "_STARTED", time.perf_counter())


def last_of(records):
    *_, record = records
    return record


def test_the_command_checks_times_and_writes(tmp_path):
    out = tmp_path / "results.json"
    options = ["--lengths=20", "--keys=24", "--head_dims=16", "--models=8B", f"--out={out}"]
    command = [sys.executable, "-m", "benchmarks.attention", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m benchmarks.attention --lengths=20 --keys=24 ")
    assert record["device"] == "cpu" and record["date"] and record["wall_seconds"] > 0
    assert record["complete"] is True
    assert set(record["versions"]) >= {"python", "jax", "jaxlib", "torch"}
    assert set(record["absent"]) >= {"mosaic", "cudnn"} and min(record["ceilings"].values()) > 0
    expected = [(kind, contender) for kind in KINDS for contender in ("xla", "torch cpu")]
    results = record["results"]
    assert [(r["kind"], r["contender"]) for r in results] == expected
    for r in results:
        assert 0 < r["seconds"]["min"] <= r["seconds"]["median"] <= r["seconds"]["max"]
        assert r["dispatch_seconds"] > 0 and r["host_bound"] in (True, False)
        assert len(r["differences"]) == 2
        for difference in r["differences"]:
            assert 0 < difference["out"] <= oracle.OUT_TOLERANCE
            assert 0 < difference["row"] <= oracle.ROW_TOLERANCE
    assert done.stdout == attention_table.of(record) + "\n"


def wrong(scale_out, add_lse):
    def attention(*args, implementation, **options):
        out, lse = reference.attend(*args, **options, soft_cap=None)
        return Partial(out * scale_out, lse + add_lse)

    return attention


@pytest.mark.parametrize(
    ("kind", "scale_out", "add_lse", "what"),
    [("anchor+local", 1.02, 0, "out"), ("causal", 1, 0.02, "lse"), ("decode", 1, 0.02, "lse")],
)
def test_what_is_wrong_fails_the_run(kind, scale_out, add_lse, what, monkeypatch, tiny):
    monkeypatch.setattr(ours, "partial_attention", wrong(scale_out, add_lse))
    with pytest.raises(oracle.Wrong, match=rf"xla, .* 48: {what} differs from the float32"):
        list(measure.run([Problem(kind, "8B", 16, 48)], star_jax.make_mesh()))


def test_one_wrong_query_among_few_is_found(monkeypatch, tiny):
    """Where there are no more queries than are compared, all are."""

    def attention(*args, implementation, **options):
        out, lse = reference.attend(*args, **options, soft_cap=None)
        return Partial(out.at[:, -1].mul(2), lse)

    monkeypatch.setattr(ours, "partial_attention", attention)
    with pytest.raises(oracle.Wrong, match="out differs"):
        list(measure.run([Problem("causal", "8B", 16, 200)], star_jax.make_mesh()))


def test_a_wrong_tile_of_values_that_late_queries_see_is_found(tiny, monkeypatch):
    """Beside the first queries, whose outputs are large, it is lost in the norm of all."""
    problem, mesh = Problem("causal", "8B", 16, 2048), star_jax.make_mesh()
    arrays = problems_lib.draw(problem, 0)[0]
    starts = np.array([0, 300, 600, 900, 1200, 1500, 1800, 2040], np.int32)
    expected = oracle.compiled(problem, mesh)(arrays, starts)
    v = arrays["v"].at[:, 1920:2048].mul(0.5)
    segments = problem.segments(arrays | {"v": v})
    found = star_jax.attention.partial_attention(
        arrays["q"], segments, scale=problem.scale, implementation="xla"
    )
    with pytest.raises(oracle.Wrong, match="row differs from the float32 reference by"):
        oracle.check(found, expected, starts, who="xla", problem=problem)
    monkeypatch.setattr(oracle, "ROW_TOLERANCE", np.inf)
    passed = oracle.check(found, expected, starts, who="xla", problem=problem)
    assert passed["out"] <= oracle.OUT_TOLERANCE and passed["row"] > 5e-2


def test_rows_of_zeros_are_matched_exactly():
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert oracle._worst_row(zeros, zeros) == 0
    assert oracle._worst_row(1e-9 * ones, zeros) == np.inf
    assert oracle._worst_row(zeros, ones) == 1
    assert np.isnan(oracle._worst_row(ones * np.nan, zeros))


def test_what_fails_is_written_down_and_the_rest_goes_on(monkeypatch, tiny):
    real = ours.partial_attention

    def attention(q, segments, **options):
        if not all(s.causal for s in segments):
            raise NotImplementedError("only causal")
        return real(q, segments, **options)

    def torch_attention_fails(name, problem, sets):
        raise RuntimeError("CUDA out of memory. Tried\nwith details")

    monkeypatch.setattr(ours, "partial_attention", attention)
    monkeypatch.setattr(torch_attention, "to_time", torch_attention_fails)
    asked = problems([20], [24], [16])[:2]
    rows = last_of(measure.run(asked[:2], star_jax.make_mesh()))["results"]
    assert [r.get("reason") for r in rows] == [
        None,
        "out of memory",
        "NotImplementedError: only causal",
        "out of memory",
    ]
    with pytest.raises(ValueError, match="nothing could be timed"):
        list(measure.run(asked[1:2], star_jax.make_mesh()))


def test_what_pytorch_gets_wrong_is_not_timed_and_nothing_else_fails(monkeypatch, tiny):
    def top_left(a, b):  # a merge that forgets the anchor
        return b

    monkeypatch.setattr(torch_attention, "_merge", top_left)
    asked = [Problem("anchor+local", "8B", 16, 48)]
    ours_, theirs = last_of(measure.run(asked, star_jax.make_mesh()))["results"]
    assert "seconds" in ours_
    assert theirs["reason"].startswith("torch cpu, anchor+local 8B d=16 48: out differs from")


@pytest.mark.parametrize("name", ["torch flash", "torch cudnn", "torch flash joined"])
@pytest.mark.parametrize("kind", KINDS)
def test_operators_of_gpus_take_these_arguments(name, kind):
    """By their shapes alone, as PyTorch knows them without a GPU."""
    problem = Problem(kind, "70B", 64, 40)
    tensors = {
        n: torch.empty(shape, dtype=torch.bfloat16, device="meta").transpose(1, 2)
        for n, shape in problem.shapes().items()
    }
    if name.endswith("joined"):
        if not problem.anchor:
            return
        tensors = torch_attention._join(tensors)
        chex.assert_shape(tensors["k"], (1, 8, 80, 64))
        assert tensors["k"].transpose(1, 2).is_contiguous()
    segment = torch_attention.SEGMENTS[name]
    out, lse = torch_attention._attend(segment, tensors, problem)
    assert out.shape == tensors["q"].shape and lse.shape == out.shape[:3]


def test_what_fails_while_it_is_timed_keeps_its_reason():
    launches = iter([None, None])

    def fail_later():
        return next(launches)  # StopIteration at the third

    passes = {
        "fails": clock.Pass(fail_later, lambda x: None, 1),
        "runs": clock.Pass(lambda: sum(range(10**5)), lambda x: None, 4),
    }
    seconds, reasons = clock.time_in_turns(passes)
    assert set(seconds) == {"runs"} and reasons == {"fails": "StopIteration: "}
    alone = clock.median_seconds(passes["runs"])
    assert alone / 3 < seconds["runs"]["seconds"]["median"] < alone * 3


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_pass_that_takes_as_long_to_launch_is_marked(where, tiny):
    def work(*args):
        time.sleep(0.01)

    def nothing(*args):
        pass

    host = where == "host"
    timed = clock.Pass(work if host else nothing, nothing if host else work, 4)
    found = clock.time_in_turns({"it": timed})[0]["it"]
    assert found["host_bound"] == host and found["seconds"]["median"] > 0.01 / 4
    assert (found["dispatch_seconds"] >= 0.01) == host


def test_a_run_that_is_cut_short_leaves_what_it_has_measured(tmp_path, tiny):
    asked, out, seen = problems([20], [24], [16], ["8B"]), tmp_path / "results.json", []

    def records(fails):
        for record in measure.run(asked, star_jax.make_mesh()):
            yield record
            seen.append(json.loads(out.read_text()))
            assert attention_table.of(seen[-1]) and attention_table.short(seen[-1])
            if fails is not None and len(seen) == 2:
                raise fails

    options.last_written(records(None), out, void=oracle.Wrong)
    assert [r["complete"] for r in seen] == [False] * 3 + [True]
    assert [len(r["results"]) for r in seen] == [2, 4, 6, 8]
    for fails, kept in ((RuntimeError("lost"), True), (oracle.Wrong("it differs"), False)):
        seen.clear()
        with pytest.raises(type(fails)):
            options.last_written(records(fails), out, void=oracle.Wrong)
        assert out.exists() == kept
        assert not kept or len(json.loads(out.read_text())["results"]) == 4


def test_what_takes_too_long_is_left_out_with_a_reason(monkeypatch, tiny):
    asked, mesh = [Problem("causal", "8B", 16, 20)], star_jax.make_mesh()
    with monkeypatch.context() as patch:
        patch.setattr(measure, "XLA_FLOPS", 1)
        xla, theirs = last_of(measure.run(asked, mesh))["results"]
    assert xla["reason"].startswith("left out: a pass takes more than") and "seconds" in theirs
    monkeypatch.setattr(measure, "PEERS_UNTIL", 0.0)
    with pytest.raises(ValueError, match=r"left out: 0 minutes had passed.*left out: 0 minutes"):
        list(measure.run(asked, mesh))
    monkeypatch.setattr(measure, "ALWAYS", ("xla",))
    xla, theirs = last_of(measure.run(asked, mesh))["results"]
    assert "seconds" in xla and theirs["reason"] == "left out: 0 minutes had passed"


def test_plain_xla_takes_less_than_a_minute():
    """At 20 TFLOP/s: once to check, twice before the samples, and the samples."""
    total = 0.0
    asked = problems([2048, 8192, 32768], [8192, 32768, 131072, 1048576], [128, 64])
    for problem in asked:
        one = problem.flops * problem.sets / 20e12
        if one * 20e12 <= measure.XLA_FLOPS:
            least = max(one, clock.LEAST_SECONDS)
            samples = max(clock.LEAST_COUNT, min(clock.COUNT, int(clock.MOST_SECONDS / least)))
            total += 3 * one + samples * least
    assert 10 < total < 60


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_those_that_the_mask_leaves(kind, tiny):
    problem = Problem(kind, "8B", 16, 33)
    arrays = problems_lib.draw(problem, 0)[0]
    segments = problem.segments(arrays)
    pairs = sum(int(s.visible(problem.queries).sum()) for s in segments)
    assert problem.pairs == pairs
    assert problem.flops == 4 * 16 * 4 * pairs
    kv = [x for name, x in arrays.items() if name[-1] in "kv"]
    assert problem.kv_bytes == sum(x.nbytes for x in kv)


def test_calls_rotate_among_inputs_that_no_cache_holds():
    for problem in problems([2048, 32768], [8192, 1048576], [64, 128]):
        assert 2 <= problem.sets <= problems_lib.MOST_SETS
        assert problem.sets * problem.kv_bytes > 2 * 60 * 2**20 or problem.kind != "decode"
    arrays = problems_lib.draw(Problem("full", "8B", 16, 20), 0)
    firsts = [float(x["k"][0, 0, 0, 0]) for x in arrays]
    assert len(set(firsts)) == len(firsts)
    assert all(float(jnp.std(x["q"].astype(jnp.float32))) > 0.5 for x in arrays)


def test_the_oracle_is_the_reference_on_whole_arrays(tiny):
    for kind in KINDS:
        problem = Problem(kind, "8B", 16, 50)
        mesh = star_jax.make_mesh()
        arrays = problems_lib.draw(problem, 1)[0]
        starts = oracle.starts(problem, np.random.default_rng(0))
        expected = oracle.compiled(problem, mesh)(arrays, starts)
        segments = problem.segments(arrays)
        whole = reference.attend(arrays["q"], segments, scale=problem.scale, soft_cap=None)
        found = oracle.check(whole, expected, starts, who="reference", problem=problem)
        assert found["out"] < 1e-5 and found["lse"] < 1e-5


@pytest.mark.parametrize("kind", ["anchor+local", "decode"])
def test_no_call_is_left_out_or_merged(kind):
    """On the program as an H200 would run it. Of our kernels: tests/mosaic."""
    mesh = aot.gpu_mesh("h200", context=1)
    problem = Problem(kind, "8B", 64, 1024)

    def dots(sets):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Problem, "sets", sets)
            program = aot.Program(ours.compiled(problem, "xla", mesh))
        return sum(" dot(" in i.text or "gemm" in i.text for i in program.instructions())

    one = dots(1)
    assert one >= 2 and dots(3) == 3 * one


@pytest.mark.parametrize("name", ["attention", "prefill"])
def test_a_gpu_needs_no_package_that_only_the_evaluation_and_tests_need(name):
    """Torch is looked for by one of them, when it runs."""
    unwanted = {"ml_collections", "wonderwords", "torch", "beartype"}
    code = f"import sys; import benchmarks.{name}; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def fake_record():
    """As a GPU might leave it: our kernel at 700 TFLOP/s or 4 TB/s, others slower."""
    rows = []
    for problem in problems([8192], [32768], [128]):
        for contender, speed in (("mosaic", 700e12), ("cudnn", 560e12), ("torch flash", 350e12)):
            seconds = problem.flops / speed
            if problem.kind == "decode":
                seconds = problem.kv_bytes / (speed / 175)
            row = measure._row(problem, contender)
            rows.append(row | {"seconds": clock.spread([seconds])})
        rows.append(measure._row(problem, "triton") | {"reason": "RuntimeError: no"})
    return {
        **machine.circumstances(jax.devices()[0], "benchmarks.attention"),
        "absent": {"xla": "why"},
        "ceilings": {"copy_bytes_per_second": 4e12, "matmul_flops_per_second": 8e14},
        "results": rows,
    }


def test_the_tables_say_what_was_measured_and_what_was_aimed_at():
    record = fake_record()
    text = " ".join(attention_table.of(record).split())
    assert "| causal | 8B | 8192 | 700 | 560 | 350 | - | 1.25 | 644 | 620 |" in text
    assert "| 70B | 32768 | 100% (34 us) | 80% (42 us) | 50% (67 us) | - | 1.25 |" in text
    assert "- triton, 8 rows: RuntimeError: no" in text and "xla (why)" in text
    verdicts = dict(attention_table.targets(record))
    assert verdicts["causal, 8B heads, 8192: 620 TFLOP/s"] == "700"
    assert verdicts["decode, 70B heads, 32768: 85% of a copy"] == "100.0%"
    two = "anchor+local, 8B heads, 8192: faster than cuDNN's two calls and their merge"
    assert verdicts[two] == "1.25"
    apart = "anchor+local, 8B heads, 8192: at least 95% of cuDNN's throughput, merge apart"
    assert verdicts[apart] == "125.0%"


def test_the_tables_cope_with_what_is_missing():
    record = fake_record() | {"complete": False}
    rows = record["results"]
    for r in rows:
        if r["contender"] == "mosaic" and r["kind"] in ("decode", "full"):
            r["host_bound"] = True
    rows.pop(0)  # mosaic's, causal
    text = " ".join(attention_table.of(record).split())
    assert "The run was cut short: rows are missing." in text
    assert "| causal | 8B | 8192 | 560 | 350 | - | | - | 644 | 620 |" in text
    assert r"| full | 8B | 8192 | 560 | 350 | - | 700\* | 1.25 |" in text
    assert r"100% (34 us)\*" in text and attention_table.HOST_BOUND in text
    assert attention_table.HOST_BOUND in attention_table.short(record).replace("\n", " ")
    for count in range(1, len(rows)):
        part = record | {"results": rows[:count]}
        assert attention_table.of(part) and attention_table.short(part)
    whole = fake_record()
    assert "cut short" not in attention_table.of(whole)
    assert attention_table.HOST_BOUND not in attention_table.of(whole)
