"""The command that converts: what it takes and refuses, and that it leaves nothing behind."""

import errno
import json
import pathlib
import signal
import types
from typing import Any

import commands
import numpy as np
import pytest
from command_folder import evaluate, files, fill, infer, without_times

from star_jax import convert
from star_jax.checkpoint import tensor_files
from star_jax.runs import records


@pytest.fixture(name="here")
def _here(tmp_path: pathlib.Path) -> pathlib.Path:
    return fill(tmp_path)


def run(here: pathlib.Path, *argv: str) -> commands.Result:
    return commands.run(here, "star_jax.convert", *argv)


def test_commands_take_what_the_command_has_made(here: pathlib.Path) -> None:
    (here / "converted").mkdir()  # empty: allowed
    (here / "checkpoint" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    done = run(here, "--input=checkpoint", "--output=converted")
    assert done.code == 0, done.stderr
    assert "converted: 0.000 GB of weights in" in done.stderr
    assert "checkpoint" not in done.stderr  # of which Orbax's log is full
    assert {p.name for p in (here / "converted").iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "weights", "weights_files.json",
    }  # fmt: skip
    for path in ("checkpoint", "converted"):
        result = infer(here, model_path=path, output_path=f"{path}.jsonl", dtype="float32")
        assert result.code == 0, result.stderr
        assert "orbax" not in result.stderr
    direct, converted = (
        [without_times(line) for line in records.read(str(here / f"{path}.jsonl"))]
        for path in ("checkpoint", "converted")
    )
    assert direct == converted
    second = evaluate(here, "--config.model.path=converted", "--config.attention.kind=dense")
    assert second.code == 0, second.stderr


BAD = [
    ([], "--input"),
    (["--input=checkpoint"], "--output"),
    (["--input=checkpoint", "--output="], "error: --output is empty"),
    (["--input=missing", "--output=out"], "'missing' is not a directory"),
    (["--input=checkpoint", "--output=checkpoint"], "is there already"),
    (["--input=checkpoint", "--output=in.jsonl"], "is there already"),
    (["--input=checkpoint", "--output=no/out"], "is not a directory"),
    (["--input=checkpoint", "--output=/dev/null"], "error: --output='/dev/null' is there already"),
    (["--input=checkpoint", "--output=/dev/full"], "output='/dev/full' is there already"),
    (["--input=checkpoint", "--output=/dev/null/out"], "/dev/null is not a directory"),
    (["--input=checkpoint", "--output=out", "--dtype=int8"], "--dtype=int8"),
    (["--input=checkpoint", "--output=out", "more"], "unexpected ['more']"),
    (["--input=converted", "--output=out"], "error: --input='converted' is converted already"),
    (["--input=.", "--output=out"], "no config.json"),
]


@pytest.mark.parametrize(("argv", "says"), BAD)
def test_the_command_refuses_in_one_line(here: pathlib.Path, argv: list[str], says: str) -> None:
    (here / "converted" / "weights").mkdir(parents=True)
    before = files(here)
    assert says in run(here, *argv).error
    assert files(here) == before


def test_what_would_not_load_is_not_converted(here: pathlib.Path) -> None:
    path = here / "checkpoint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    before = files(here)
    assert "model.safetensors: torn" in run(here, "--input=checkpoint", "--output=out").error
    assert files(here) == before


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_nothing_is_left_behind(
    error: BaseException, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = tensor_files.read

    def fail(tensor: tensor_files.Tensor, *args: Any, **kwargs: Any) -> np.ndarray:
        asked.append(tensor.name)
        if len(asked) == 5:
            raise error
        return read(tensor, *args, **kwargs)

    before = files(here)
    monkeypatch.setattr(tensor_files, "read", fail)
    with pytest.raises(type(error)):
        convert.convert(str(here / "checkpoint"), str(here / "out"))
    assert len(asked) == 5
    assert files(here) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, here: pathlib.Path) -> None:
    """In the midst of the weights, while Orbax's threads write."""
    code = f"""
import os, runpy, sys
from star_jax.checkpoint import tensor_files
read, asked = tensor_files.read, []
def stop(*args, **kwargs):
    asked.append(1)
    if len(asked) == 5:
        os.kill(os.getpid(), {int(number)})
    return read(*args, **kwargs)
tensor_files.read = stop
sys.argv = ["convert", "--input=checkpoint", "--output=out"]
runpy.run_module("star_jax.convert", run_name="__main__", alter_sys=True)
"""
    before = files(here)
    done = commands.run(here, "-c", code=code)
    assert done.code == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"interrupted by {number.name}; nothing is left behind, and the same command starts over"
    )
    assert files(here) == before


def test_a_full_disk_is_an_error_that_names_the_output(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write raises it: no path

    before = files(here)
    output = str(here / "out")
    for module, name in ((tensor_files, "read"), (json, "dump"), (convert.shutil, "copyfile")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="No space left on device") as error:
                convert.convert(str(here / "checkpoint"), output)
        assert f"{output=} could not be written" in str(error.value)
        assert "partial" not in str(error.value)
        assert files(here) == before
    assert "Traceback" not in capfd.readouterr().err


def test_the_output_may_be_a_link_to_an_empty_directory(here: pathlib.Path) -> None:
    (here / "target").mkdir()
    (here / "out").symlink_to("target")
    convert.convert(str(here / "checkpoint"), str(here / "out"))
    assert (here / "target" / "config.json").exists()
    assert (here / "out").is_symlink()


def test_what_is_refused_before_anything_is_read(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(here / "checkpoint")
    convert.convert(source, str(here / "out"))
    before = files(here)
    with pytest.raises(ValueError, match="is converted already"):
        convert.convert(str(here / "out"), str(here / "twice"))
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match="bytes of weights, and 10 are free"):
        convert.convert(source, str(here / "full"))
    assert files(here) == before
