"""What is left of prepared questions where the command was stopped anywhere."""

import os
import pathlib
import random
import shutil
import time
from collections.abc import Iterator
from typing import Any

import commands
import fake_engine
import pytest
from test_eval_kill import CONFIG
from test_eval_runner import _here, make
from test_prepare import files, tokenizer_of

from star_jax.eval.prepared import reading, writing
from star_jax.eval.suites import Cell
from star_jax.runs.sample import Sample

__all__ = ["_here"]  # a fixture


def cells(count: int) -> Iterator[Cell]:
    def draw(position: int) -> Sample:
        return Sample(position, f"context {position} " * 50, "q", ("a",))

    for task in ("one", "two"):
        yield Cell(task, 512, 512, range(count), draw, 4)


def test_a_stop_anywhere_leaves_nothing_half_that_looks_whole(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each write, rename and manifest in turn, it goes on to the same files."""
    given = make(data__prepared="there")
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_WRITES", 0)
    settings = {"data.suite": "x"}
    monkeypatch.setattr(writing.manifest, "settings_of", lambda *args: settings)
    monkeypatch.setattr(reading.manifest, "settings_of", lambda *args: settings)
    tokenizer = tokenizer_of()
    writing.write("never", list(cells(3)), given, tokenizer)
    expected = {name.removeprefix("never"): text for name, text in files("never").items()}

    class StopError(Exception):
        pass

    def stop_after(number: int) -> bool:
        """Whether it was stopped, which is after that many steps."""
        left = number
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((writing.records, "append"), (os, "replace"), (os, "truncate")):
                done = getattr(module, name)

                def step(*args: Any, done: Any = done, **options: Any) -> None:
                    nonlocal left
                    done(*args, **options)
                    left -= 1
                    if left == 0:
                        raise StopError

                patch.setattr(module, name, step)
            try:
                writing.write("there", list(cells(3)), given, tokenizer)
            except StopError:
                return True
        return False

    number = 1
    while True:
        writing.write("there", list(cells(2)), given, tokenizer)  # two, and then a third
        was_stopped = stop_after(number)
        for name, text in files("there").items():
            if name.endswith(".jsonl") and was_stopped:
                assert text.count(b"\n") in (2, 3)
        part = pathlib.Path("there/512/two.jsonl.part")
        if part.exists():
            with pytest.raises(ValueError, match="has not all of the 3 questions"):
                reading.attached(cells(3), given, tokenizer)
            part.write_bytes(part.read_bytes() + b'{"torn')
        writing.write("there", list(cells(3)), given, tokenizer)
        assert {name.removeprefix("there"): text for name, text in files().items()} == expected
        shutil.rmtree("there")
        if not was_stopped:
            break
        number += 1
    assert number > 10


@pytest.mark.long
def test_a_command_that_is_killed_goes_on(tmp_path: pathlib.Path) -> None:
    """And takes neither devices nor weights."""
    fake_engine.save_tokenizer(tmp_path / "checkpoint", adds="<s> $A")
    (tmp_path / "config.py").write_text(
        CONFIG.replace("niah_single_1,niah_multikey_2", "vt,fwe").replace("600,900", "1500,2000")
    )

    def run_command(output: str, kill_after: float | None = None) -> commands.Result:
        code = (
            "import jax, runpy; jax.config.update('jax_platforms', 'nothing'); import sys; "
            f"sys.argv = ['prepare', '--config=config.py', '--output={output}', "
            "'--config.data.num_samples=30']; "
            "runpy.run_module('star_jax.prepare', run_name='__main__', alter_sys=True)"
        )
        return commands.run(tmp_path, "", code=code, kill_after=kill_after)

    first = run_command("never")
    start = time.monotonic()
    assert run_command("timed").code == 0
    seconds = time.monotonic() - start
    assert first.code == 0, first.stderr
    assert "120 questions to draw for 4 of 4 files" in first.stderr
    assert "samples/s  ETA 0s" in first.stderr
    rng = random.Random(3)
    killed = 0
    for _ in range(3):
        killed += run_command("there", rng.uniform(0.2, 0.6) * seconds).code == -9
    assert killed
    assert run_command("there").code == 0
    there, never = files(str(tmp_path / "there")), files(str(tmp_path / "never"))
    assert list(there.values()) == list(never.values())
    again = run_command("there")
    assert again.code == 0
    assert again.stderr.splitlines() == ["there has all the questions; there is nothing to do"]


def test_a_signal_ends_it_with_one_line(tmp_path: pathlib.Path) -> None:
    fake_engine.save_tokenizer(tmp_path / "checkpoint", adds="<s> $A")
    (tmp_path / "config.py").write_text(CONFIG.replace("niah_single_1,niah_multikey_2", "fwe"))
    code = """
import os, runpy, signal, sys
from star_jax.eval.prepared import lines
fields = lines.fields
def kill(sample):
    if sample.index == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return fields(sample)
lines.fields = kill
sys.argv = ["prepare", "--config=config.py", "--output=new/there"]
runpy.run_module("star_jax.prepare", run_name="__main__")
"""
    found = commands.run(tmp_path, "", code=code)
    assert found.code == 1
    last = found.stderr.splitlines()[-1]
    assert last == "interrupted by SIGTERM; the same command goes on from here"
    again = commands.run(tmp_path, "star_jax.prepare", "--config=config.py", "--output=new/there")
    assert again.code == 0, again.stderr
    assert len(files(str(tmp_path / "new"))) == 3
