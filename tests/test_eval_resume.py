"""A second run into the same place: what is there stays, what is missing is asked, or refused."""

import os
import pathlib
from typing import Any

import fake_engine
import pytest
from commands import results
from fake_engine import FakeEngine
from further import further
from test_eval_runner import _here, run

from star_jax.runs import records

__all__ = ["_here"]  # a fixture


def test_a_run_that_is_complete_is_only_reported(here: pathlib.Path) -> None:
    first = run()
    before = results(here / "out")
    times = [path.stat().st_mtime_ns for path in here.rglob("*.jsonl")]
    (here / "out" / "summary.md").unlink()
    assert run() == first  # seconds and all: it comes from the records
    assert FakeEngine.loaded == 1
    assert results(here / "out") == before
    assert [path.stat().st_mtime_ns for path in here.rglob("*.jsonl")] == times


def test_only_what_is_missing_is_asked_again(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    expected = results(here / "out")
    torn = here / "out/star_b150_a0/600/niah_single_1.jsonl"
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # in the middle of the second batch
    (here / "out/dense/900/niah_multikey_2.jsonl").unlink()
    asked = []
    answer = FakeEngine._answer

    def count(self: FakeEngine, *args: Any) -> Any:
        asked.append(self.attention)
        return answer(self, *args)

    monkeypatch.setattr(FakeEngine, "_answer", count)
    run()
    assert len(asked) == 2 + 5
    assert results(here / "out") == expected
    assert torn.read_bytes().startswith(b"".join(lines[:3]))  # not even their times have changed


@pytest.mark.parametrize("before", [4, *further(1, 5)])
def test_samples_can_be_added(
    here: pathlib.Path, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are there stay, byte for byte, a short last batch too."""
    run(data__num_samples=before, output_dir="out")
    files = {path: path.read_bytes() for path in (here / "out").rglob("*.jsonl")}
    asked: list[int] = []
    prefill = FakeEngine.prefill

    def count(self: FakeEngine, context_ids: Any) -> Any:
        asked.append(len(context_ids))
        return prefill(self, context_ids)

    monkeypatch.setattr(FakeEngine, "prefill", count)
    run(data__num_samples=7, output_dir="out")
    assert sum(asked) == (7 - before) * len(files)
    assert all(path.read_bytes().startswith(text) for path, text in files.items())
    run(data__num_samples=7, output_dir="at once")
    assert results(here / "out") == results(here / "at once")


EACH_SUITE: dict[str, dict[str, Any]] = {
    "ruler": {"data__tasks": "niah_single_3,vt,fwe", "data__haystack": "substitute"},
    "babilong": {"data__tasks": "qa1,qa5"},
    "infinitebench": {"data__tasks": "passkey,math_find"},
}


@pytest.mark.parametrize("suite", EACH_SUITE)
def test_a_run_of_any_suite_goes_on_as_if_it_had_not_been_stopped(
    here: pathlib.Path, suite: str
) -> None:
    given = {"data__suite": suite, "data__lengths": "1024", "data__num_samples": 3}
    given |= {"data__keys": "", **EACH_SUITE[suite]}
    run(**given, output_dir="at once")
    run(**given, output_dir="out")
    files = sorted((here / "out").rglob("*.jsonl"))
    assert len(files) > 2
    files[0].unlink()
    lines = files[1].read_bytes().splitlines(keepends=True)
    files[1].write_bytes(lines[0] + lines[1][:30])
    run(**given, output_dir="out")
    assert results(here / "out") == results(here / "at once")


@pytest.mark.parametrize("name", ["manifest.json", "summary.csv", "summary.md"])
def test_only_regular_files_are_written_to(here: pathlib.Path, name: str) -> None:
    (here / "out").mkdir()
    os.mkfifo(here / "out" / name)
    with pytest.raises(ValueError, match=f"out/{name} is a pipe"):
        run()
    assert FakeEngine.loaded == 0
    assert os.listdir(here / "out") == [name]


def test_records_are_in_regular_files(here: pathlib.Path) -> None:
    run()
    path = here / "out/dense/600/niah_single_1.jsonl"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"niah_single_1\.jsonl is a device"):
        run()


def test_what_is_not_finite_ends_the_run_and_is_not_written_down(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine refuses logits that are not finite; here in the third batch of the first cell."""
    prefill, count = FakeEngine.prefill, iter(range(100))

    def overflow(self: FakeEngine, context_ids: Any) -> Any:
        if next(count) == 2:
            raise ValueError("non-finite logits with dtype='float16': try bfloat16")
        return prefill(self, context_ids)

    monkeypatch.setattr(FakeEngine, "prefill", overflow)
    with pytest.raises(ValueError, match="non-finite logits"):
        run(attention__kind="dense", output_dir="broken")
    assert len(records.read("broken/dense/600/niah_single_1.jsonl")) == 4
    assert not (here / "broken" / "summary.csv").exists()
    run(attention__kind="dense", output_dir="broken")
    run(attention__kind="dense", output_dir="whole")
    assert results(here / "broken") == results(here / "whole")


def test_an_interrupted_run_may_go_on_with_more_samples(here: pathlib.Path) -> None:
    run(data__num_samples=5)
    (here / "out/dense/600/niah_single_1.jsonl").unlink()
    run(data__num_samples=6)
    run(data__num_samples=6, output_dir="at once")
    assert results(here / "out") == results(here / "at once")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__seed": 1}, "data.seed was 0 and is 1"),
        ({"data__num_samples": 3}, "num_samples was 5 and is 3"),
        ({"data__keys": "keys.txt"}, "data.keys"),
        ({"attention__block_size": "L/8"}, "attention.block_size was ['L/4'] and is ['L/8']"),
        ({"generation__stop": "x"}, "generation.stop"),
        ({"model__path": "other"}, "model.files"),
        ({"mesh__data": 1}, "mesh.data was 2 and is 1"),
        *further(
            ({"data__lengths": "600"}, "data.lengths"),
            ({"data__tasks": "niah_single_1"}, "data.tasks"),
            ({"data__template": "llama3"}, "data.template"),
            ({"attention__kind": "dense"}, "attention.kind"),
            ({"attention__anchor_size": "b"}, "attention.anchor_size"),
            ({"attention__implementation": "reference"}, "attention.implementation"),
            ({"generation__max_new_tokens": 15}, "generation.max_new_tokens"),
            ({"generation__ignore_eos": True}, "generation.ignore_eos"),
            ({"model__dtype": "float32"}, "model.dtype"),
            ({"mesh__context": 2}, "mesh.context"),
        ),
    ],
)
def test_other_settings_in_the_same_place_are_refused(
    here: pathlib.Path, changes: dict[str, Any], says: str
) -> None:
    (here / "keys.txt").write_text("\n".join(f"key{i}" for i in range(40)))
    fake_engine.save_checkpoint(here / "other")
    text = (here / "other" / "config.json").read_text()
    (here / "other" / "config.json").write_text(text.replace("10000.0", "10001.0"))
    run()
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(**changes)
    assert says in str(error.value)
    assert "out/manifest.json is of a run with other settings" in str(error.value)
    assert FakeEngine.loaded == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_settings_that_mean_the_same_are_the_same(here: pathlib.Path) -> None:
    run()
    (here / "checkpoint").rename(here / "moved")
    run(
        attention__kind=" star, dense",
        attention__anchor_size="0,b",
        data__lengths="900,600",
        data__tasks="niah_multikey_2,niah_single_1",
        model__path="moved",
    )
    assert FakeEngine.loaded == 1


def test_results_without_a_manifest_are_refused(here: pathlib.Path) -> None:
    run()
    (here / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json that says how it was made"):
        run()


def test_other_files_in_the_output_directory_do_not_matter(here: pathlib.Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    run()
    assert (here / "out" / "notes.txt").read_text() == "mine"
