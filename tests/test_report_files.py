"""What a report writes, what it refuses, and what a kill leaves of it."""

import json
import math
import os
import pathlib
import re
import shutil
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import run_folders
from run_folders import report

from star_jax.eval.reporting import files
from star_jax.runs import records


def test_a_report_is_made_anew(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an earlier one go, others' stay; the page is the last that is written."""
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, samples=2)
    _, output = report(folder)
    shutil.copy(next(output.glob("fig-*.png")), output / "fig-stale.png")
    (output / "fig-torn.png.part").touch()
    others = {"mine.png", "fig-architecture.png", "fig-1.png.bak"}
    for name in others:
        (output / name).touch()
    written = []
    whole = records.write_atomically

    def note(path: str, content: str | bytes) -> None:
        written.append(os.path.basename(path))
        whole(path, content)

    monkeypatch.setattr(files.records, "write_atomically", note)
    report(folder)
    assert written[-1] == "index.html" and written[-3:-1] == ["results.csv", "summary.md"]
    assert {path.name for path in output.iterdir()} == {*written, *others}


@pytest.mark.parametrize("name", ["index.html", "results.csv", "summary.md"])
def test_a_report_overwrites_no_other_files(tmp_path: pathlib.Path, name: str) -> None:
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, samples=2)
    output = tmp_path / "paper"
    output.mkdir()
    (output / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: no report has written it"):
        report(folder, output=output)
    assert [path.name for path in output.iterdir()] == [name]
    assert (output / name).read_text() == "mine"


@pytest.mark.long
def test_a_report_that_is_killed_anywhere_leaves_whole_files(tmp_path: pathlib.Path) -> None:
    """At each line that writes, every file is that of the last report, or of this one."""
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, samples=2)
    _, output = report(folder)
    last = {path.name: path.read_bytes() for path in output.iterdir()}
    _, other = report(folder, output=tmp_path / "other", tolerance=2.0)
    for path in (folder / "report").iterdir():
        path.write_bytes(last[path.name][:-1])  # so that each is told from the new one
    old = {name: content[:-1] for name, content in last.items()}
    new = {path.name: path.read_bytes() for path in other.iterdir()}
    seen: set[tuple[int, ...]] = set()

    def look(frame: types.FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        if pathlib.Path(frame.f_code.co_filename).name not in ("records.py", "files.py"):
            return None
        there = {path.name: path.read_bytes() for path in output.glob("[!.]*[!t]")}
        assert there.keys() == old.keys()
        assert all(content in (old[name], new[name]) for name, content in there.items())
        seen.add(tuple(content == new[name] for name, content in sorted(there.items())))
        return look

    try:
        sys.settrace(look)
        report(folder, tolerance=2.0)
    finally:
        sys.settrace(None)
    assert len(seen) == len(old) + 1  # one after another


def broken(change: Callable[[dict[str, object]], object]) -> Callable[[pathlib.Path], None]:
    def apply(folder: pathlib.Path) -> None:
        path = next(folder.rglob("dense/512/*.jsonl"))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(lines[1])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return apply


def sized(size: object) -> Callable[[pathlib.Path], None]:
    def apply(folder: pathlib.Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        next(row for row in manifest["rows"].values() if "block_size" in row)["block_size"] = size
        path.write_text(json.dumps(manifest))

    return apply


def without_answers(folder: pathlib.Path) -> None:
    for path in folder.rglob("*.jsonl"):
        path.write_text("")


def older(folder: pathlib.Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({name: manifest[name] for name in ("num_samples", "settings")}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "there is no such directory"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json in it"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "not the manifest"),
        (older, "from before there were reports; give its eval command again"),
        (without_answers, "no answers yet"),
        (broken(lambda line: line.pop("score")), "niah_single_1.jsonl:2: not a record"),
        (broken(lambda line: line.update(score=2.0)), "a number from 0 to 1"),
        (broken(lambda line: line.update(time_prefill="1")), "time_prefill is no number"),
        (broken(lambda line: line.update(needles=[[1]])), "niah_single_1.jsonl:2: not a record"),
        (broken(lambda line: line.update(needles=[[0, math.inf]])), "jsonl:2: not a record"),
        (broken(lambda line: line.update(needles=[[-1, 2]])), "where tokens begin and end"),
        (broken(lambda line: line.update(index=[1])), "an index is a whole number"),
        (sized("x"), "manifest.json: not the manifest"),
        (sized(1e-9), "manifest.json: not the manifest"),
        (sized(0), "manifest.json: not the manifest"),
        (
            lambda folder: (folder / "summary.csv").write_bytes(b"notes\n\xff\n"),
            "summary.csv: not a run's summary",
        ),
        (
            lambda folder: next(folder.rglob("*.jsonl")).write_bytes(b"\xff\n"),
            ":1: not a record of an answer (not JSON)",
        ),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused(
    tmp_path: pathlib.Path, spoil: Callable[[pathlib.Path], object], says: str
) -> None:
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, lengths=(512,), samples=2)
    spoil(folder)
    with pytest.raises((ValueError, OSError), match=re.escape(says)):
        report(folder)
    assert not (folder / "report").exists()


def test_a_run_is_not_overwritten_by_its_report(tmp_path: pathlib.Path) -> None:
    """Whether it is named as it is, in another way, by a link, or is another run's."""
    folder, other = (
        run_folders.write(tmp_path / name, lambda *args: 1.0, lengths=(512,), samples=2)
        for name in ("run", "other")
    )
    (tmp_path / "link").symlink_to(folder)
    for directory in (folder, other):
        (directory / "summary.md").write_text("the run's own")
    for output in (folder, folder / ".." / "run", tmp_path / "link", other):
        with pytest.raises(ValueError, match="the report cannot go there: it is the output of a"):
            report(folder, output=output)
    (folder / "report").symlink_to(folder)
    with pytest.raises(ValueError, match="the report cannot go there"):
        report(folder)
    for directory in (folder, other):
        assert (directory / "summary.md").read_text() == "the run's own"
        assert not (directory / "index.html").exists()


def test_a_torn_last_line_is_passed_over(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, lengths=(512,), samples=2)
    path = next(folder.rglob("dense/512/*.jsonl"))
    path.write_text(path.read_text()[:-9])
    assert "1 of 2 answers" in report(folder)[0]
