"""`python -m star_jax.infer`: the reference's flags and lines, resumed, refused, killed."""

import os
import pathlib
import re
from typing import Any

import commands
import pytest
from command_folder import INFER, QUESTIONS, files, fill, infer, without_times, write_lines

from star_jax.runs import records


@pytest.fixture(name="here")
def _here(tmp_path: pathlib.Path) -> pathlib.Path:
    return fill(tmp_path)


BAD_INFER = [
    ({"model_path": None}, "--model_path"),
    ({"model_path": "missing"}, "missing"),
    ({"attn_type": "spiral"}, "--attn_type=spiral"),
    ({"attn_type": "rings"}, "--attn_type=rings"),
    ({"block_size": None}, "block_size=-1"),
    ({"block_size": 0}, "block_size=0"),
    ({"anchor_block_size": 17}, "anchor_size=17 is above block_size=16"),
    ({"anchor_block_size": -2}, "anchor_size=-2"),
    ({"halo": 17}, "halo=17 is above block_size=16"),
    ({"stride": 0}, "stride=0 must be at least 1"),
    ({"correction": "gamma"}, "--correction=gamma"),
    ({"tokens_to_generate": 0}, "--tokens_to_generate=0"),
    ({"tokens_to_generate": "many"}, "--tokens_to_generate=many"),
    ({"num_samples": 0}, "--num_samples=0"),
    ({"output_path": ""}, "--output_path is empty"),
    ({"stop_words": "a,,b"}, "error: --stop_words='a,,b' has an empty stop word"),
    ({"dtype": "int4"}, "--dtype=int4"),
    ({"temperature": -0.5}, "--temperature=-0.5"),
    ({"top_p": 0, "temperature": 1}, "--top_p=0"),
    ({"top_k": 5}, "--top_k=5 needs a --temperature above 0"),
    ({"template": "chat"}, "no chat template"),
    ({"context": 3, "cpu_devices": 2}, "--context=3 x --tensor=1 asks for 3 devices"),
    ({"data": 0}, "error: --data=0 must be at least 1"),
    ({"cpu_devices": -1}, "cpu_devices=-1"),
    ({"input_path": "missing.jsonl"}, "missing.jsonl"),
    ({"input_path": "checkpoint"}, "checkpoint"),
    ({"output_path": "in.jsonl"}, "in.jsonl"),
    ({"output_path": "checkpoint"}, "checkpoint"),
    ({"output_path": "in.jsonl/out.jsonl"}, "in.jsonl"),
    ({"use_cache": "false", "output_path": "in.jsonl"}, "which is the file of --input_path"),
    (
        {"use_cache": "false", "input_path": "x.manifest.json", "output_path": "x"},
        "x.manifest.json, which is the file",
    ),
    ({"input_path": "y.manifest.json.part", "output_path": "y"}, "y.manifest.json.part, which is"),
    ({"input_path": "x.manifest.json", "output_path": "to_x"}, "x.manifest.json, which is the"),
    ({"output_path": "/dev/full"}, "/dev/full is a device"),
    ({"output_path": "/dev/null"}, "/dev/null is a device"),
    ({"output_path": "/dev/zero", "use_cache": "false"}, "/dev/zero is a device"),
    ({"output_path": "pipe"}, "pipe is a pipe"),
    ({"output_path": "link"}, "link is a device"),
    ({"output_path": "checkpoint/../deep"}, "deep is a directory"),
    ({"output_path": ""}, "a directory"),
    ({"input_path": "pipe"}, "pipe is a pipe"),
    ({"input_path": "/dev/zero"}, "/dev/zero is a device"),
    ({"tokens_to_generate": "1e9"}, "--tokens_to_generate=1e9"),
    ({"tokens_to_generate": 10**9}, "--tokens_to_generate=1000000000 is more than 16 times the"),
    ({"cpu_devices": 100_000}, "--cpu_devices=100000 must be from 1 to 1024"),
    ({"context": 10**15}, "error: --context=1000000000000000 must be at most 2147483647"),
    ({"context": 3}, "--cpu_devices=3 simulates as many"),
    ({"seed": -1}, "--seed=-1"),
    ({"seed": 2**70}, "--seed=1180591620717411303424"),
    ({"temperature": "nan"}, "--temperature=nan must be a finite number"),
    ({"temperature": "inf"}, "--temperature=inf must be a finite number"),
    ({"temperature": "-inf"}, "--temperature=-inf must be a finite number"),
    ({"temperature": 1, "top_p": "nan"}, "--top_p=nan must be a finite number"),
    ({"temperature": 1, "min_p": "-inf"}, "--min_p=-inf must be a finite number"),
    ({"repetition_penalty": "inf"}, "--repetition_penalty=inf must be a finite number"),
    ({"top_k": -(10**30)}, "--top_k=-1"),
    ({"num_samples": -(10**30)}, "--num_samples=-1"),
    ({"batch_size": -1}, "--batch_size=-1"),
    ({"anchor_block_size": 10**30}, "--anchor_block_size"),
    ({"compile_cache_dir": "in.jsonl"}, "cannot make the output directory in.jsonl"),
    ({"blocksize": 3}, "blocksize"),
]


@pytest.mark.parametrize(("flags", "says"), BAD_INFER)
def test_infer_refuses_in_one_line(here: pathlib.Path, flags: dict[str, Any], says: str) -> None:
    os.mkfifo(here / "pipe")
    (here / "deep").mkdir()
    (here / "link").symlink_to("/dev/full")
    (here / "to_x").symlink_to("x")
    for name in ("x.manifest.json", "y.manifest.json.part"):
        (here / name).write_bytes((here / "in.jsonl").read_bytes())
    before = files(here)
    error = infer(here, **flags).error
    assert says in error
    assert "mesh.cpu_devices" not in error  # that is the other command's
    assert files(here) == before


def test_what_is_missing_is_named_alone(here: pathlib.Path) -> None:
    assert infer(here, model_path=None, input_path=None).error == (
        "error: missing --model_path, --input_path; --help says what there is"
    )


def test_overwriting_starts_again_and_only_when_there_is_an_answer(here: pathlib.Path) -> None:
    assert infer(here, fake=True, tokens_to_generate=2).code == 0
    (here / "foreign.jsonl").write_text("mine\n")
    before = files(here)
    for output in ("out.jsonl", "foreign.jsonl"):
        assert infer(here, "--nouse_cache", fake=True, output_path=output, data=2).code == 1
    assert files(here) == before
    for output in ("out.jsonl", "foreign.jsonl", "fresh.jsonl"):
        assert infer(here, "--nouse_cache", fake=True, output_path=output).code == 0
    texts = [
        [without_times(one) for one in records.read(str(here / name))]
        for name in ("out.jsonl", "foreign.jsonl", "fresh.jsonl")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 3
    whole = (here / "out.jsonl").read_bytes()
    assert infer(here, fake=True).code == 0  # and it can be gone on with
    assert (here / "out.jsonl").read_bytes() == whole


def test_a_comma_after_the_last_stop_word_means_nothing(here: pathlib.Path) -> None:
    assert infer(here, fake=True, stop_words="a,").code == 0
    assert infer(here, fake=True, stop_words="a").code == 0  # the same settings


def test_numbers_beyond_what_there_is_are_served(here: pathlib.Path) -> None:
    run = infer(here, fake=True, num_samples=10**30, batch_size=10**30, block_size=2**31 - 1)
    assert run.code == 0, run.stderr
    assert len(records.read(str(here / "out.jsonl"))) == 3


def test_a_batch_of_too_many_questions_is_refused(here: pathlib.Path) -> None:
    line = {"input_context": "the sky", "input_query": "is it?"}
    write_lines(here / "many.jsonl", *[line] * 4097)
    flags: dict[str, Any] = {"input_path": "many.jsonl", "fake": True, "batch_size": 4097}
    assert "--batch_size=4097 is above 4096 questions" in infer(here, **flags).error
    assert infer(here, **flags, num_samples=2).code == 0


def test_infer_refuses_other_settings_and_other_files(here: pathlib.Path) -> None:
    assert infer(here, fake=True).code == 0
    before = files(here)
    for flags, says in (
        ({"tokens_to_generate": 5}, "tokens_to_generate was 4 and is 5"),
        ({"block_size": 8}, "block_size was 16 and is 8"),
        ({"anchor_block_size": 8}, "anchor_block_size was 16 and is 8"),
        ({"attn_type": "dense"}, "attn_type"),
        ({"num_samples": 2}, "num_samples was 3 and is 2"),
        ({"dtype": "float32"}, "dtype"),
        ({"stop_words": "x"}, "stop_words"),
        ({"temperature": 0.5}, "temperature was 0.0 and is 0.5"),
    ):
        assert says in infer(here, fake=True, **flags).error
    assert infer(here, fake=True, anchor_block_size=16).code == 0  # the same as -1
    assert files(here) == before
    (here / "out.jsonl.manifest.json").unlink()
    assert "no out.jsonl.manifest.json" in infer(here, fake=True).error


def test_infer_can_be_given_more_samples(here: pathlib.Path) -> None:
    assert infer(here, fake=True, num_samples=1).code == 0
    assert infer(here, "--use_cache", fake=True, output_path="./out.jsonl").code == 0
    assert infer(here, fake=True, output_path="new/deep/at_once.jsonl").code == 0
    both = [
        [without_times(one) for one in records.read(str(here / name))]
        for name in ("out.jsonl", "new/deep/at_once.jsonl")
    ]
    assert both[0] == both[1]
    assert len(both[0]) == 3


def test_without_a_seed_draws_differ_and_a_run_goes_on_with_its_own(here: pathlib.Path) -> None:
    """The records have the seed of each answer; one that is given draws the same again."""
    draws: dict[str, Any] = {"temperature": 1.0, "tokens_to_generate": 8}

    def drawn(output: str, **more: Any) -> list[dict[str, Any]]:
        assert infer(here, output_path=output, **draws, **more).code == 0
        return [without_times(one) for one in records.read(str(here / output))]

    first = drawn("a.jsonl")
    assert [one["seed"] % 2**32 for one in first] == [5, 3, 9]  # with the question's index
    assert drawn("b.jsonl") != first
    assert drawn("c.jsonl", seed=first[0]["seed"] // 2**32) == first
    lines = (here / "a.jsonl").read_bytes().splitlines(keepends=True)
    (here / "a.jsonl").write_bytes(lines[0])
    assert drawn("a.jsonl") == first


def test_infer_writes_the_references_lines(here: pathlib.Path) -> None:
    run = infer(here, fake=True)
    assert run.code == 0
    assert re.search(r"prefill \d+ tokens/s, \S+ s/token, compiling 0\.0 s\n", run.stderr)
    found = records.read(str(here / "out.jsonl"))
    assert [one["index"] for one in found] == [5, 3, 9]
    assert [one["outputs"] for one in found] == [[], ["b"], ["x", "y"]]
    assert [one["score"] for one in found] == [None, 0.0, 0.0]
    reference = "index pred input_context input_query outputs others truncation length".split()
    for one, question in zip(found, QUESTIONS, strict=True):
        assert list(one)[: len(reference)] == reference
        assert one["input_context"] == question["input_context"]
        assert (one["others"], one["truncation"], one["length"]) == ({}, -1, -1)
        assert one["n_generated"] == 4
        assert one["stop_reason"] == "length"
        assert {"time_prefill", "time_decode", "time_compile"} <= set(one)


def test_infer_keeps_what_the_input_says(here: pathlib.Path) -> None:
    plain = {"input_context": "the sky", "input_query": "is it?"}
    extra = {"others": {"id": 7}, "truncation": 5, "length": 12, "unknown": 1}
    write_lines(here / "plain.jsonl", plain, {**plain, **extra})
    assert infer(here, fake=True, input_path="plain.jsonl").code == 0
    first, second = records.read(str(here / "out.jsonl"))
    assert first["index"] == second["index"] == -1  # as the reference has it
    assert {name: second[name] for name in ("others", "truncation", "length")} == {
        "others": {"id": 7},
        "truncation": 5,
        "length": 12,
    }
    assert "unknown" not in second


def test_infer_survives_being_killed(here: pathlib.Path) -> None:
    context = "One of the special magic numbers for it is: 7. "
    query = "number for it mentioned"
    write_lines(
        here / "many.jsonl",
        *({"input_context": context * (i + 1), "input_query": query} for i in range(40)),
    )
    flags = {**INFER, "input_path": "many.jsonl", "data": 2, "cpu_devices": 2}

    def go(output: str, kill_after: float | None = None) -> int:
        argv = [f"--{name}={value}" for name, value in {**flags, "output_path": output}.items()]
        return commands.run(
            here,
            "star_jax.infer",
            *argv,
            fake=True,
            env={"FAKE_ENGINE_SECONDS": "0.05"},
            kill_after=kill_after,
        ).code

    assert go("never.jsonl") == 0
    codes = [go("killed.jsonl", kill_after=seconds) for seconds in (0.3, 0.9, 0.6)]
    assert codes.count(-9) >= 1
    assert go("killed.jsonl") == 0
    never, killed = (
        [without_times(one) for one in records.read(str(here / name))]
        for name in ("never.jsonl", "killed.jsonl")
    )
    assert len(never) == 40
    assert killed == never


def test_the_manifest_lies_beside_the_file_that_a_link_leads_to(here: pathlib.Path) -> None:
    (here / "far").mkdir()
    (here / "out.jsonl").symlink_to("far/answers.jsonl")
    assert infer(here, fake=True).code == 0
    assert sorted(path.name for path in (here / "far").iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.manifest.json",
    ]
    assert "there is nothing to do" in infer(here, fake=True).stderr
    assert not (here / "out.jsonl.manifest.json").exists()
