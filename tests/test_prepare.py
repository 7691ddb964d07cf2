"""Prepared questions: the same ones as those drawn, whatever comes in between."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import commands
import fake_engine
import pytest
import test_chat
import transformers
from commands import results
from fake_engine import FakeEngine
from test_eval_kill import CONFIG
from test_eval_runner import _here, make, run

from star_jax import prepare as command
from star_jax.eval import config, load
from star_jax.eval.prepared import lines, manifest, reading
from star_jax.eval.suites import SUITES, Cell
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

__all__ = ["_here"]  # a fixture

TASKS = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")


def prepare(**changes: Any) -> None:
    command.prepare(config.resolve(make(**{"data__prepared": "there", **changes})))


def files(folder: str = "there") -> dict[str, bytes]:
    found = pathlib.Path(folder).rglob("*")
    return {str(path): path.read_bytes() for path in sorted(found) if path.is_file()}


def ids(sample: Sample, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    return tokenizer.encode_context(sample.context), tokenizer.encode_query(sample.query)


def draws_by(draw: Callable[[Cell, int], Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on RULER's questions are drawn so."""
    suite = SUITES["ruler"]

    def cells(config: config.EvalConfig, tokenizer: Tokenizer) -> Iterator[Cell]:
        for cell in suite.cells(config, tokenizer):
            yield dataclasses.replace(cell, draw=functools.partial(draw, cell))

    monkeypatch.setitem(SUITES, "ruler", dataclasses.replace(suite, cells=cells))


def tokenizer_of(directory: str = "checkpoint") -> Tokenizer:
    tokenizer = Tokenizer.from_pretrained(directory)
    assert tokenizer is not None
    return tokenizer


def test_a_line_keeps_a_sample_and_its_token_ids() -> None:
    """A user's text that spells a special token stays text, and a template's stays the token."""
    context = Prompt.template("<s>") + "she writes </s> é中\n" + Prompt.template("</s><s>")
    query = "and </s>?" + Prompt.template("</s>") + " the"
    for sample in (
        Sample(3, context, query, ("a", "b"), ((4, 9),), 17, {"question": "x", "n": [1]}),
        Sample(-1, "plain </s>", Prompt.template("q"), ()),
        Sample(0, Prompt(()), "q", ("a",), given={"others": {"id": "x7"}, "length": "8k"}),
    ):
        text = json.dumps(lines.fields(sample)).encode()
        again = lines.parse(text)
        assert again == sample
        assert ids(again, tokenizer_of()) == ids(sample, tokenizer_of())
    plain = Sample(3, str(context), str(query), ())
    assert ids(plain, tokenizer_of()) != ids(Sample(3, context, query, ()), tokenizer_of())


@pytest.mark.parametrize("change", [{"context_parts": [[1, True]]}, {"outputs": 3}, {"index": ...}])
def test_what_is_no_line_is_refused(change: dict[str, Any]) -> None:
    line = lines.fields(Sample(0, Prompt.template("ab"), "q", ())) | change
    text = json.dumps({name: value for name, value in line.items() if value is not ...})
    with pytest.raises(ValueError, match="not a prepared question"):
        lines.parse(text.encode())


@pytest.mark.parametrize("template", ["base", "llama3", "chat"])
def test_what_is_prepared_is_what_is_drawn(here: pathlib.Path, template: str) -> None:
    """All tasks, down to the ids."""
    theirs = transformers.AutoTokenizer.from_pretrained(here / "checkpoint")
    theirs.chat_template = test_chat.LLAMA3
    theirs.save_pretrained(here / "checkpoint")
    changes = {
        "data__template": template,
        "data__tasks": ",".join(TASKS),
        "data__lengths": "1500",
        "data__num_samples": 2,
    }
    prepare(**changes)
    given = config.resolve(make(**changes, data__prepared="there"))
    tokenizer = tokenizer_of()
    cells = list(SUITES["ruler"].cells(given, tokenizer))
    again = reading.attached(cells, given, tokenizer)
    assert len(cells) == len(TASKS)
    for cell, other in zip(cells, again, strict=True):
        assert other.draw is not cell.draw
        for position in (1, 0):
            drawn, found = cell.draw(position), other.draw(position)
            assert found == drawn
            assert ids(found, tokenizer) == ids(drawn, tokenizer)


@pytest.mark.long
def test_a_run_may_draw_read_and_draw_again(here: pathlib.Path) -> None:
    """Before anything is there, with all of it, and with questions in the file that it leaves."""
    run(output_dir="drawn")
    run(data__prepared="there", output_dir="none yet")
    assert not os.path.exists("there")
    prepare(data__num_samples=6, data__tasks="niah_multikey_2,niah_multikey_3,niah_single_1")
    run(data__prepared="there", output_dir="read")
    expected = results(here / "drawn")
    assert results(here / "none yet") == results(here / "read") == expected
    run(output_dir="mixed", data__num_samples=2)
    run(output_dir="mixed", data__num_samples=4, data__prepared="there")
    run(output_dir="mixed")
    assert results(here / "mixed") == expected


def test_nothing_is_drawn_that_was_prepared(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare()
    drawn = []

    def noted(cell: Cell, position: int) -> Sample:
        drawn.append(position)
        return cell.draw(position)

    draws_by(noted, monkeypatch)
    run(data__prepared="there")
    assert set(drawn) == {0}  # which is compared
    drawn.clear()
    before = files(), {path: os.stat(path).st_mtime_ns for path in files()}
    prepare()
    assert drawn == []
    assert before == (files(), {path: os.stat(path).st_mtime_ns for path in files()})


def test_the_users_own_lines_are_prepared_too(here: pathlib.Path) -> None:
    """With the name of their file as the task, and an index that is no position."""
    (here / "mine.jsonl").write_text(
        "".join(
            json.dumps(
                {"index": i, "input_context": f"c {i}\n", "input_query": "q", "output": "a"}
                | {"others": {"id": f"x{i}"}}
            )
            + "\n"
            for i in (7, 3)
        )
    )
    given = {
        "data__suite": "jsonl",
        "data__path": "mine.jsonl",
        "data__tasks": "",
        "data__lengths": "",
        "attention__block_size": "64",
    }
    prepare(**given)
    assert list(files()) == ["there/all/mine.jsonl", "there/manifest.json"]
    run(**given, output_dir="drawn")
    run(**given, output_dir="read", data__prepared="there")
    assert results(here / "drawn") == results(here / "read")
    for folder in ("drawn", "read"):
        assert {(a["index"], a["others"]["id"]) for a in load(folder)} == {(7, "x7"), (3, "x3")}
    with (here / "mine.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"all/mine\.jsonl was prepared .* data\.path was \{'mine"):
        run(**given, output_dir="other", data__prepared="there")


def test_a_kill_within_the_first_manifest_leaves_nothing_in_the_way(here: pathlib.Path) -> None:
    (here / "there").mkdir()
    (here / "there/manifest.json.part").write_text('{"form')
    run(data__num_samples=1, data__prepared="there", output_dir="drawn")
    prepare(data__num_samples=1)
    assert "there/manifest.json.part" not in files()
    run(data__num_samples=1, data__prepared="there", output_dir="read")
    assert results(here / "drawn") == results(here / "read")


def test_the_label_of_a_task_is_not_of_its_name(here: pathlib.Path) -> None:
    """A cell is called niah_single_1[substitute], say; what it depends on is niah_single_1's."""
    given = config.resolve(make(data__tasks="niah_single_1,vt", data__lengths="600"))
    cell, _ = SUITES["ruler"].cells(given, tokenizer_of())
    plain = manifest.settings_of(cell, given, tokenizer_of())
    labelled = dataclasses.replace(cell, task="niah_single_1[substitute]")
    assert manifest.settings_of(labelled, given, tokenizer_of()) == plain
    assert plain["data.tasks"] == ["niah_single_1"]
    assert manifest.file_of(labelled) == "600/niah_single_1[substitute].jsonl"


def test_tasks_lengths_and_samples_are_added(here: pathlib.Path) -> None:
    prepare(data__num_samples=2, data__tasks="niah_single_1", data__lengths="600")
    first = files()["there/600/niah_single_1.jsonl"]
    prepare()
    assert files()["there/600/niah_single_1.jsonl"].startswith(first)
    prepare(data__num_samples=3)  # fewer: nothing goes
    grown = files()
    shutil.rmtree("there")
    prepare()
    assert grown == files()
    assert [one.count(b"\n") for name, one in grown.items() if "600" in name] == [5, 5]


OTHER = [
    ({"data__seed": 1}, "data.seed was 0 and is 1"),
    ({"data__template": "llama3"}, "data.template was 'base' and is 'llama3'"),
    ({"generation__max_new_tokens": 17}, "max_new_tokens was 16 and is 17"),
    ({"data__keys": "keys.txt"}, "data.keys was '' and is 'ec015a3"),
    ({"model__path": "another"}, "tokenizer was '"),
]


@pytest.mark.parametrize("of", ["eval", "prepare"])
@pytest.mark.parametrize(("changes", "says"), OTHER)
def test_other_settings_are_named(
    here: pathlib.Path, of: str, changes: dict[str, Any], says: str
) -> None:
    (here / "keys.txt").write_text("a\nb\nc\n" + "".join(f"key{i}\n" for i in range(200)))
    fake_engine.save_tokenizer(here / "another", adds="<s> $A </s>")
    shutil.copy(here / "checkpoint" / "config.json", here / "another")
    prepare(data__num_samples=1)
    before = files()
    changes = {"data__prepared": "there", "data__num_samples": 1, **changes}
    with pytest.raises(ValueError, match="was prepared with other settings") as error:
        (run if of == "eval" else prepare)(**changes)
    assert says in str(error.value)
    assert str(error.value).count(" was ") == 2 + ("data__keys" in changes)  # no wonderwords then
    assert files() == before
    assert FakeEngine.loaded == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__num_samples": 2}, "has 1 of the 2 questions"),
        (
            {"data__tasks": "vt"},
            "has no 600/vt.jsonl: python -m star_jax.prepare",
        ),
        ({"data__lengths": "700"}, "has no 700/niah_single_1.jsonl"),
    ],
)
def test_what_is_missing_is_named(here: pathlib.Path, changes: dict[str, Any], says: str) -> None:
    prepare(data__num_samples=1)
    with pytest.raises(ValueError, match="has") as error:
        run(**{"data__prepared": "there", "data__num_samples": 1, **changes})
    assert says in str(error.value)
    assert FakeEngine.loaded == 0


def test_what_was_damaged_is_named(here: pathlib.Path) -> None:
    prepare(data__num_samples=2)
    name = "there/600/niah_single_1.jsonl"
    whole, listed = files()[name], files()["there/manifest.json"]

    def refused(says: str) -> None:
        for one in (run, prepare):
            with pytest.raises((ValueError, OSError), match=says):
                one(data__num_samples=2, data__prepared="there")

    for damaged in (whole[:-1], whole + b"\n", whole.replace(b"grass", b"glass", 1)):
        pathlib.Path(name).write_bytes(damaged)
        refused("niah_single_1.jsonl is not what was prepared")
    pathlib.Path(name).unlink()
    with pytest.raises(FileNotFoundError, match="niah_single_1"):
        run(data__num_samples=2, data__prepared="there")
    prepare(data__num_samples=2)
    assert files()[name] == whole
    for torn in (
        b"",
        b"[]",
        b"{}",
        listed[:-5],
        listed.replace(b'"format": 2', b'"format": 1'),
    ):
        pathlib.Path("there/manifest.json").write_bytes(torn)
        refused("not a manifest of prepared questions")
    pathlib.Path("there/manifest.json").unlink()
    with pytest.raises(ValueError, match=r"there has files, and no manifest\.json"):
        prepare()
    with pytest.raises(ValueError, match="has no 600/niah_single_1"):
        run(data__prepared="there")


def test_another_version_that_draws_otherwise_is_noticed(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(data__num_samples=2)
    draws_by(lambda cell, position: cell.draw(position + 1), monkeypatch)
    with pytest.raises(ValueError, match=r"niah_single_1\.jsonl:1 is not the question that is dr"):
        run(data__num_samples=2, data__prepared="there")
    with pytest.raises(ValueError, match=r"niah_single_1\.jsonl:2 is not the question that is dr"):
        prepare(data__num_samples=3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "missing --config"),
        (["--config=config.py"], "data.prepared is empty: say where"),
        (["--config=config.py", "--output=config.py"], "cannot make the output directory"),
        (["--config=config.py", "--output=o", "--config.data.tasks=vx"], "data.tasks: 'vx'"),
        (["--config=config.py", "--output=o", "--config.data.lengths=20"], "length=20 is too"),
        (["--config=config.py", "--output=o", "--config.data.sed=2"], "did you mean data.seed"),
        (["--config=config.py", "--output=o", "--config.model.path=no"], "'no' is not a dir"),
        (["--config=config.py", "--output=checkpoint"], "checkpoint has files, and no manifest"),
        (["--config=config.py", "--output=o", "--sources=s"], "--sources is of --download"),
        (["--config=config.py", "--output=o", "--only=*"], "--only is of --download"),
    ],
)
def test_what_is_typed_wrong_is_one_line(
    tmp_path: pathlib.Path, argv: list[str], says: str
) -> None:
    fake_engine.save_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "config.py").write_text(CONFIG)
    found = commands.run(tmp_path, "star_jax.prepare", *argv, env={"HF_HUB_OFFLINE": "1"})
    assert says in found.error
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "config.py", "stderr", "stdout"]
