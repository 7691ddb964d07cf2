"""The runner, on an engine without a model: what is asked, written and refused."""

import json
import os
import pathlib
import warnings
from typing import Any

import fake_engine
import jax
import pytest
from commands import results
from fake_engine import FakeEngine

from star_jax.advice import Advice
from star_jax.eval import config, ruler, runner
from star_jax.runs import records
from star_jax.text.tokenizer import Tokenizer

TASKS = ["niah_single_1", "niah_multikey_2"]


@pytest.fixture(name="here", autouse=True)
def _here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder with a checkpoint, and the fake engine in the runner."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "Engine", FakeEngine)
    monkeypatch.setattr(FakeEngine, "loaded", 0)
    fake_engine.save_checkpoint(tmp_path / "checkpoint")
    return tmp_path


def make(**changes: Any) -> config.EvalConfig:
    given = config.EvalConfig(
        model=config.ModelConfig(path="checkpoint"),
        attention=config.AttentionConfig(kind="dense,star", block_size="L/4", anchor_size="b,0"),
        mesh=config.MeshConfig(data=2),
        data=config.DataConfig(tasks=",".join(TASKS), lengths="600,900", num_samples=5),
        generation=config.GenerationConfig(max_new_tokens=16),
        output_dir="out",
    )
    for name, value in changes.items():
        *path, field = name.split("__")
        target: Any = given
        for part in path:
            target = getattr(target, part)
        assert hasattr(target, field)
        setattr(target, field, value)
    return given


def run(**changes: Any) -> str:
    return runner.run(config.resolve(make(**changes)))


def jsonl(here: pathlib.Path, count: int = 5) -> pathlib.Path:
    path = here / "questions.jsonl"
    lines = [
        {
            "index": 100 - i,
            "input_context": f"One of the special magic numbers for k{i} is: {i}{i}. "
            + "x " * 40 * i,
            "input_query": f"the special magic number for k{i} mentioned",
            "outputs": [f"{i}{i}"],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_question_is_asked_with_every_row(here: pathlib.Path) -> None:
    run()
    expected = {"manifest.json", "summary.csv", "summary.md"}
    for length in (600, 900):
        rows = ["dense", f"star_b{length // 4}_a{length // 4}", f"star_b{length // 4}_a0"]
        expected |= {f"{row}/{length}/{task}.jsonl" for row in rows for task in TASKS}
    found = results(here / "out")
    assert set(found) == expected
    assert FakeEngine.loaded == 1
    for name in found:
        if name.endswith(".jsonl"):
            one = records.read(f"out/{name}")
            assert [record["index"] for record in one] == [0, 1, 2, 3, 4]
    # All rows see the same questions.
    asked = ("input_context", "input_query", "outputs", "n_context_tokens", "n_query_tokens")
    for task in TASKS:
        dense, star, bare = (
            [
                [record[name] for name in asked]
                for record in records.read(f"out/{row}/600/{task}.jsonl")
            ]
            for row in ("dense", "star_b150_a150", "star_b150_a0")
        )
        assert dense == star == bare


def test_a_record_says_what_was_asked_and_answered(here: pathlib.Path) -> None:
    run(data__lengths="600", data__seed=3)
    tokenizer = Tokenizer.from_pretrained(here / "checkpoint")
    assert tokenizer is not None
    wants = [
        ruler.generate(
            "niah_multikey_2",
            length=600,
            index=i,
            seed=3,
            count_tokens=lambda text: len(tokenizer.encode_query(text)),
            max_new_tokens=17,  # with the BOS, which counts too
            wrap=ruler.TEMPLATES["base"],
            keys=None,
        )
        for i in range(5)
    ]
    cuts = []
    for row, size in (("dense", None), ("star_b150_a0", 150)):
        for want, got in zip(
            wants, records.read(f"out/{row}/600/niah_multikey_2.jsonl"), strict=True
        ):
            ((start, end),) = want.needles
            before = len(tokenizer.encode_context(want.context[:start]))
            after = len(tokenizer.encode_context(want.context[:end]))
            cut = None if size is None else before // size != (after - 1) // size
            cuts.append(cut)
            hit = size is None or before % size >= 20
            times = {name: got.pop(name) for name in list(got) if name.startswith("time_")}
            assert set(times) == {"time_prefill", "time_decode", "time_compile"}
            assert all(isinstance(value, float) and value >= 0 for value in times.values())
            assert got == {
                "index": want.index,
                "pred": f"{want.outputs[0]}." if hit else "no idea",
                "input_context": want.context,
                "input_query": want.query,
                "outputs": list(want.outputs),
                "others": {},
                "truncation": -1,
                "length": want.length,
                "score": float(hit),
                "n_context_tokens": len(tokenizer.encode_context(want.context)),
                "n_query_tokens": len(tokenizer.encode_query(want.query)),
                "n_generated": 9 if hit else 8,
                "stop_reason": "eos",
                "metric": "string_match_all",
                "needles": [[before, after]],
                "needle_cut": cut,
            }
    assert set(cuts) == {None, True, False}  # the seed gives both kinds


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__lengths": "60"}, "too short"),
        ({"data__keys": "few.txt", "data__tasks": "niah_multikey_2"}, "too few"),
        ({"data__keys": "none.txt"}, "none.txt"),
        ({"data__keys": "empty.txt"}, "no keys"),
        ({"model__path": "nowhere/at/all"}, "nowhere/at/all"),
        ({"model__path": "bare"}, "bare has no tokenizer files"),
        ({"model__path": "empty"}, "config.json"),
        ({"mesh__context": 5}, "10 devices"),
        ({"output_dir": "file/out"}, "cannot make the output directory file/out"),
        ({"output_dir": "file"}, "cannot make the output directory file"),
        ({"profile_dir": "file/profile"}, "cannot make the output directory file/profile"),
        ({"data__suite": "jsonl", "data__path": "missing.jsonl"}, "missing.jsonl"),
        ({"data__suite": "jsonl", "data__path": "bad.jsonl"}, "bad.jsonl:2: not JSON"),
    ],
)
def test_what_is_wrong_is_told_before_the_model_is_loaded_and_leaves_nothing(
    here: pathlib.Path, changes: dict[str, Any], says: str
) -> None:
    (here / "few.txt").write_text("a\nb\n")
    (here / "empty.txt").write_text("\n")
    (here / "file").touch()
    (here / "empty").mkdir()
    (here / "bare").mkdir()
    (here / "bare/config.json").write_text((here / "checkpoint/config.json").read_text())
    (here / "bad.jsonl").write_text('{"input_context": "c", "input_query": "q"}\n{"input\n')
    before = sorted(here.rglob("*"))
    with pytest.raises((ValueError, OSError)) as error:
        run(**changes)
    assert says in str(error.value)
    assert FakeEngine.loaded == 0
    assert sorted(here.rglob("*")) == before


def test_an_engine_that_fails_leaves_nothing(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(here.rglob("*"))

    def fail(*args: object, **options: object) -> None:
        raise ValueError("torn weights")

    for name in ("prefill", "from_pretrained"):
        monkeypatch.setattr(FakeEngine, name, fail)
        with pytest.raises(ValueError, match="torn weights"):
            run(output_dir="deep/out")
        assert sorted(here.rglob("*")) == before


def test_jsonl(here: pathlib.Path) -> None:
    jsonl(here)
    table = run(
        data__suite="jsonl",
        data__path="questions.jsonl",
        data__lengths="",
        data__num_samples=-1,
        attention__block_size="64",
    )
    for row in ("dense", "star_b64_a64", "star_b64_a0"):
        found = records.read(f"out/{row}/all/questions.jsonl")
        assert [record["index"] for record in found] == [100, 99, 98, 97, 96]
        assert [record["score"] for record in found] == ([1.0] * 5 if row == "dense" else [0.0] * 5)
        assert [record["needle_cut"] for record in found] == [None] * 5
    assert "whole" not in table
    assert "| questions |      - | dense        | 5 | 100.0 |" in table.replace("|   5 |", "| 5 |")


def test_json_lines_say_themselves_what_l_is(here: pathlib.Path) -> None:
    """The longest context of the file, also when only its first questions are asked."""
    jsonl(here)
    options = {
        "data__suite": "jsonl",
        "data__path": "questions.jsonl",
        "attention__kind": "star",
        "attention__anchor_size": "b",
    }
    run(**options, data__num_samples=2)
    tokenizer = Tokenizer.from_pretrained(here / "checkpoint")
    assert tokenizer
    lines = [json.loads(text) for text in (here / "questions.jsonl").read_text().splitlines()]
    longest = max(len(tokenizer.encode_context(line["input_context"])) for line in lines)
    name = f"star_b{longest // 4}_a{longest // 4}/all/questions.jsonl"
    assert len(records.read(f"out/{name}")) == 2
    run(**options, data__num_samples=5)
    assert {path.name for path in (here / "out").iterdir() if path.is_dir()} == {
        name.partition("/")[0]
    }
    assert len(records.read(f"out/{name}")) == 5


def test_jsonl_with_lengths_says_what_l_is_and_fills_in_the_path(here: pathlib.Path) -> None:
    text = jsonl(here).read_text()
    for length in (128, 256):
        for task in ("a", "b"):
            folder = here / "data" / str(length) / task
            folder.mkdir(parents=True)
            (folder / "validation.jsonl").write_text(text)
    run(
        data__suite="jsonl",
        data__path="data/{length}/{task}/validation.jsonl",
        data__lengths="128,256",
        data__tasks="a,b",
        data__num_samples=3,
        attention__kind="star",
        attention__anchor_size="b",
    )
    found = {name for name in results(here / "out") if name.endswith(".jsonl")}
    assert found == {
        f"star_b{length // 4}_a{length // 4}/{length}/{task}.jsonl"
        for length in (128, 256)
        for task in ("a", "b")
    }
    assert all(len(records.read(f"out/{name}")) == 3 for name in found)
    # A file that changes is another setting.
    (here / "data/256/b/validation.jsonl").write_text(text + "\n")
    with pytest.raises(ValueError, match=r"data\.path was"):
        run(
            data__suite="jsonl",
            data__path="data/{length}/{task}/validation.jsonl",
            data__lengths="128,256",
            data__tasks="a,b",
            data__num_samples=3,
            attention__kind="star",
            attention__anchor_size="b",
        )


def test_questions_without_answers_are_answered_and_not_scored(here: pathlib.Path) -> None:
    path = jsonl(here, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[0]["outputs"], lines[2]["outputs"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {
        "data__suite": "jsonl",
        "data__path": "questions.jsonl",
        "data__lengths": "",
        "attention__kind": "dense",
    }
    table = run(**options)
    found = records.read("out/dense/all/questions.jsonl")
    assert [record["score"] for record in found] == [None, 1.0, None]
    assert [record["pred"] for record in found] == ["00.", "11.", "22."]
    assert "2 of 3 questions have no reference answer" in table


def test_the_profiler_runs_once_after_the_programs_are_compiled(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[int | str] = []
    prefill = FakeEngine.prefill

    def note(self: FakeEngine, context_ids: Any) -> Any:
        events.append(len(context_ids))
        return prefill(self, context_ids)

    class Trace:
        def __init__(self, directory: str):
            events.append(directory)

        def __enter__(self) -> None:
            events.append("begin")

        def __exit__(self, *exc: object) -> None:
            events.append("end")

    monkeypatch.setattr(FakeEngine, "prefill", note)
    monkeypatch.setattr(jax.profiler, "trace", Trace)
    run(profile_dir="profile")
    assert events[:6] == [2, "profile", "begin", 2, "end", 2]
    assert "begin" not in events[5:]
    run(output_dir="without")
    assert results(here / "out") == results(here / "without")
    assert not os.path.exists("profile")  # nothing was written to it


def test_progress_shows_the_scores(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(data__lengths="600", data__tasks="niah_single_1", attention__anchor_size="b")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("mesh: data 2, context 1, tensor 1, on cpu; 6 more devices")
    assert lines[1] == (
        "niah_single_1 @ 600: 5 questions, 10 answers to give: dense, star_b150_a150"
    )
    assert lines[-1].startswith("100% niah_single_1 @ 600 5/5  dense 100.0, star_b150_a150 ")
    assert lines[-1].endswith("ETA 0s")


def test_it_is_said_that_questions_are_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    draw = runner._draw
    monkeypatch.setattr(runner.Progress, "begin", lambda self, doing: said.append(doing))

    def note(*args: Any) -> runner.Questions:
        said.append("made")
        return draw(*args)

    monkeypatch.setattr(runner, "_draw", note)
    run(data__lengths="600", data__tasks="niah_single_1", data__batch_size=4)
    made = [i for i, text in enumerate(said) if text == "made"]
    assert [said[i - 1] for i in made] == ["making 4 questions", "making 1 question"]


def test_idle_devices_are_noted_and_not_warned_about(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here, so the runner must hold back the engine's."""
    prefill = FakeEngine.prefill

    def warn(self: FakeEngine, context_ids: Any) -> Any:
        warnings.warn("star_jax: 1 idle; use smaller blocks", Advice, stacklevel=2)
        return prefill(self, context_ids)

    monkeypatch.setattr(FakeEngine, "prefill", warn)
    table = run(attention__block_size="L", mesh__context=2, data__num_samples=2)
    assert "1 block for 2 devices: 1 idle in phase 1" in table
