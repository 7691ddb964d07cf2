"""The commands as they are typed, on a real if tiny model; and every way to type them wrong."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import commands
import numpy as np
import pytest
import safetensors.numpy
from command_folder import evaluate, files, fill, infer, without_times, write_lines

from star_jax.runs import records


@pytest.fixture(name="here")
def _here(tmp_path: pathlib.Path) -> pathlib.Path:
    return fill(tmp_path)


def test_from_a_checkpoint_to_the_table(here: pathlib.Path) -> None:
    first = evaluate(here)
    assert first.code == 0, first.stderr
    lines = [line for line in first.stdout.splitlines() if line.startswith("| niah")]
    assert [line.split("|")[3].strip() for line in lines] == ["dense", "star_b150_a150"]
    assert first.stdout.strip() in (here / "out" / "summary.md").read_text()
    expected = commands.results(here / "out")
    star = here / "out/star_b150_a150/600/niah_single_1.jsonl"
    answers = records.read(str(star))
    assert all(0 < one["time_prefill"] < one["time_compile"] for one in answers[:2])

    # Torn and gone on with, it comes out the same.
    whole = star.read_bytes()
    star.write_bytes(whole[:-20])
    (here / "out" / "summary.csv").unlink()
    second = evaluate(here)
    assert second.code == 0, second.stderr
    assert "1 answers to give" in second.stderr
    assert commands.results(here / "out") == expected

    # The records are questions in the reference's format. The other command answers them so too.
    like_eval: dict[str, Any] = {"data": 2, "context": 2, "cpu_devices": 4, "dtype": "float32"}
    third = infer(here, **like_eval, block_size=150, input_path=star)
    assert third.code == 0, third.stderr
    again = records.read(str(here / "out.jsonl"))
    for one, answer in zip(again, answers, strict=True):
        assert without_times(one) == {
            name: value
            for name, value in without_times(answer).items()
            if name not in ("needles", "needle_cut")
        }


BAD_EVAL = [
    (["--config.model.path=missing"], "missing"),
    (["--config.model.dtype=int4"], "model.dtype"),
    (["--config.attention.block_size=0"], "attention.block_size='0'"),
    (["--config.attention.block_size=-16"], "attention.block_size='-16'"),
    (["--config.attention.block_size=L/4,L/999"], "attention.block_size='L/999' is 0"),
    (["--config.attention.anchor_size=b,151"], "attention.anchor_size='151'"),
    (["--config.attention.block_size=10000000000000"], "attention.block_size='10000000000000' is"),
    (["--config.attention.block_size=L/" + "1" * 5000], "attention.block_size='L/111"),
    (["--config.attention.anchor_size=" + "1" * 5000], "attention.anchor_size='111"),
    (["--config.generation.stop=a,,b"], "generation.stop='a,,b' has an empty stop word"),
    (["--config.attention.kind=spiral"], "attention.kind: 'spiral'"),
    (["--config.attention.kind=rings"], "attention.kind: 'rings' is unknown"),
    (["--config.attention.implementation=magic"], "attention.implementation: 'magic'"),
    (["--config.mesh.context=3"], "mesh.data=2 x mesh.context=3 x mesh.tensor=1 asks for 6"),
    (["--config.mesh.data=0"], "mesh.data=0"),
    (["--config.data.tasks=niah_single_1,niah_single_99"], "niah_single_99"),
    (["--config.data.suite=glue"], "data.suite: 'glue'"),
    (["--config.data.lengths=600,20"], "length=20"),
    (["--config.data.lengths=600,abc"], "'abc'"),
    (["--config.data.num_samples=0"], "data.num_samples=0"),
    (["--config.data.keys=missing.txt"], "missing.txt"),
    (["--config.data.seed=x"], "--config.data.seed=x"),
    (["--config.data.sed=3"], "--config.data.sed; did you mean data.seed"),
    (["--config.data"], "--config.data"),
    (["--konfig=3"], "konfig"),
    (["stray"], "stray"),
    (["--config.output_dir=config.py/out"], "config.py/out"),
    (["--config.output_dir=/dev/null/out"], "/dev/null/out"),
    (["--config.output_dir="], "output_dir"),
    (["--config=missing.py"], "missing.py"),
    (["--config=broken.py"], "broken.py"),
    (["--config=other.py"], "EvalConfig"),
    (["--config="], "config"),
    (["--config.data.lengths=100000000"], "data.lengths=100000000 is more than 16 times the 4096"),
    (["--config.data.lengths=600,99999999999999999999"], "is above 2147483647 tokens"),
    (["--config.data.num_samples=1000000000"], "data.num_samples=1000000000"),
    (
        ["--config.data.num_samples=1000000", "--config.data.batch_size=1000000000"],
        "data.batch_size=1000000000 is above 4096 questions at once",
    ),
    (["--config.data.num_samples=1e9"], "--config.data.num_samples=1e9"),
    (["--config.mesh.cpu_devices=100000"], "mesh.cpu_devices=100000 must be from 1 to 1024"),
    (["--config.mesh.cpu_devices=-1"], "mesh.cpu_devices=-1"),
    (["--config.generation.max_new_tokens=1000000000"], "max_new_tokens=1000000000"),
    (["--config.generation.temperature=nan"], "generation.temperature=nan must be a finite"),
    (["--config.generation.repetition_penalty=inf"], "generation.repetition_penalty=inf"),
    (["--config.generation.seed=-1"], "generation.seed=-1"),
    (["--config.data.keys=/dev/zero"], "/dev/zero is a device"),
    (["--config.data.keys=checkpoint/model.safetensors"], "model.safetensors' is not text (inv"),
    (["--config=none.py"], "model is None, and not a ModelConfig"),
    (["--config.data.suite=jsonl", "--config.data.path=/dev/zero"], "/dev/zero is a device"),
    (["--config.compile_cache_dir=config.py"], "cannot make the output directory config.py"),
]


@pytest.mark.parametrize(("argv", "says"), BAD_EVAL, ids=[argv[-1][:60] for argv, _ in BAD_EVAL])
def test_eval_refuses_in_one_line(here: pathlib.Path, argv: list[str], says: str) -> None:
    (here / "broken.py").write_text("def get_config(:\n")
    (here / "other.py").write_text("def get_config():\n    return {'a': 1}\n")
    none = "from star_jax.eval.config import EvalConfig\n"
    none += "def get_config():\n    return EvalConfig(*[None] * 5, output_dir='out')\n"
    (here / "none.py").write_text(none)
    before = files(here)
    assert says in evaluate(here, *argv).error
    assert files(here) == before


@pytest.mark.parametrize("module", ["star_jax.eval", "star_jax.infer"])
def test_the_commands_as_processes_of_their_own(here: pathlib.Path, module: str) -> None:
    """All other tests run them in children of a server: see `commands`."""
    result = subprocess.run(
        [sys.executable, "-m", module, "--nonsense=1"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": commands.AS_USERS},
        capture_output=True,
        text=True,
    )
    error = commands.Result(result.returncode, result.stdout, result.stderr).error
    assert "'nonsense'" in error


def test_eval_needs_a_config(here: pathlib.Path) -> None:
    assert "--config" in commands.run(here, "star_jax.eval").error


BAD_LINES = [
    ('{"input_context": "c", "input_query": "q"', "not JSON"),
    ({"input_context": "c"}, "no 'input_query'"),
    ({"input_query": "q"}, "no 'input_context'"),
    ({"input_context": "", "input_query": "q"}, "'input_context' is empty"),
    ({"input_context": "c", "input_query": ""}, "'input_query' is empty"),
    ("[" * 100_000, "nested too deep"),
    ('{"others": ' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
    (
        '{"input_context": "c", "input_query": "q", "others": ' + "[" * 150 + "]" * 150 + "}",
        "'others' is nested more than 100 deep",
    ),
    ('{"input_context": "c", "input_query": "q", "index": ' + "9" * 5000 + "}", "not JSON"),
]


@pytest.mark.parametrize(("line", "says"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines_are_named(here: pathlib.Path, line: dict[str, Any] | str, says: str) -> None:
    good = {"input_context": "c", "input_query": "q"}
    write_lines(here / "bad.jsonl", good, good, line, good)
    before = files(here)
    errors = [
        infer(here, input_path="bad.jsonl").error,
        evaluate(here, "--config.data.suite=jsonl", "--config.data.path=bad.jsonl").error,
    ]
    for error in errors:
        assert error.startswith("error: bad.jsonl:3: ")
        assert says in error
    assert files(here) == before


@pytest.mark.long
def test_a_warning_is_said_once(here: pathlib.Path) -> None:
    """Though commands read the tokenizer, and then the engine does."""
    path = here / "checkpoint" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    for result in (infer(here), evaluate(here, "--config.attention.kind=dense")):
        assert result.code == 0, result.stderr
        assert result.stderr.count("warning: the tokenizer names a BOS") == 1


def break_checkpoint(folder: pathlib.Path, how: str) -> None:
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "torn":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "torn header":
        weights.write_bytes(weights.read_bytes()[:50])
    elif how == "no weights":
        weights.unlink()
    elif how == "shape":
        tensors = safetensors.numpy.load_file(weights)
        tensors["model.norm.weight"] = np.ones(31, np.float32)
        safetensors.numpy.save_file(tensors, weights)
    elif how == "missing tensor":
        tensors = safetensors.numpy.load_file(weights)
        del tensors["model.layers.0.mlp.up_proj.weight"]
        safetensors.numpy.save_file(tensors, weights)
    elif how == "unknown field":
        (folder / "config.json").write_text(json.dumps({**config, "new_trick": 3}))
    elif how == "other model":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif how == "not json":
        (folder / "config.json").write_text("{")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        assert how == "torn tokenizer"
        (folder / "tokenizer.json").write_text('{"version"')


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "config.json"),
        ("torn", "model.safetensors"),
        ("torn header", "model.safetensors"),
        ("no weights", "safetensors"),
        ("shape", "model.norm.weight"),
        ("missing tensor", "model.layers.0.mlp.up_proj.weight"),
        ("unknown field", "new_trick"),
        ("other model", "gpt2"),
        ("not json", "config.json"),
        ("no tokenizer", "tokenizer"),
        ("torn tokenizer", "tokenizer"),
    ],
)
def test_a_bad_checkpoint_is_named(here: pathlib.Path, how: str, says: str) -> None:
    break_checkpoint(here / "checkpoint", how)
    before = files(here)
    for result in (infer(here), evaluate(here)):
        assert says in result.error
        assert "checkpoint" in result.error or how in ("other model", "not json", "unknown field")
    assert files(here) == before
