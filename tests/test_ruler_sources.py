"""RULER's outside files: found, or one line that says which is missing, and what is wrong."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import commands
import pytest
import ruler_sources
from command_folder import CONFIG
from fake_engine import save_checkpoint

from star_jax.eval.ruler import sources
from star_jax.eval.settings import DataConfig
from star_jax.eval.suites import SUITES
from star_jax.runs import records

ESSAY_TASK, SQUAD_TASK, HOTPOT_TASK = "niah_single_2", "qa_1", "qa_2"
DOWNLOAD = "python -m star_jax.prepare --download --sources="


@pytest.fixture(name="there")
def _there(tmp_path: pathlib.Path) -> pathlib.Path:
    return ruler_sources.write(tmp_path)


def test_only_what_is_needed_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps(ruler_sources.squad()))
    found = sources.read(str(tmp_path), "", ["qa_1", "vt"])
    assert found.squad is not None
    assert found.essays is None
    assert found.hotpotqa is None
    assert sources.read("", "", ["vt", "niah_single_1"]) == sources.Sources()


@pytest.mark.parametrize(
    ("task", "name", "url"),
    [
        ("niah_multivalue", "PaulGrahamEssays.json", "https://paulgraham.com"),
        ("qa_1", "squad.json", "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"),
        ("qa_2", "hotpotqa.json", "hotpot_dev_distractor_v1.json"),
    ],
)
def test_a_missing_file_is_named_with_how_to_get_it(
    tmp_path: pathlib.Path, task: str, name: str, url: str
) -> None:
    with pytest.raises(FileNotFoundError) as error:
        sources.read(str(tmp_path), "", [task, "vt"])
    message = str(error.value)
    assert f"there is no {tmp_path / name}, which must be there for {task}: " in message
    assert f"{DOWNLOAD}{tmp_path}`" in message
    assert url in message
    assert "\n" not in message
    with pytest.raises(
        ValueError, match=f"data.sources is empty, and {name} must be there for {task}: "
    ):
        sources.read("", "", [task])


def test_essays_may_be_texts_or_a_file_of_ones_own(tmp_path: pathlib.Path) -> None:
    (tmp_path / "b.txt").write_text("Three.")
    (tmp_path / "a.txt").write_text("One  two.\n")
    found = sources.read(str(tmp_path), "", [ESSAY_TASK]).essays
    assert found is not None
    assert found.words == ["One", "two.", "Three."]
    assert set(sources.hashes_of(str(tmp_path), "", [ESSAY_TASK])) == {
        "data.sources.a.txt",
        "data.sources.b.txt",
    }
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"text": "Mine."}))
    found = sources.read("", str(own), [ESSAY_TASK]).essays
    assert found is not None
    assert found.words == ["Mine."]
    (tmp_path / "PaulGrahamEssays.json").write_text(json.dumps({"text": "His."}))
    found = sources.read(str(tmp_path), "", [ESSAY_TASK]).essays
    assert found is not None
    assert found.words == ["His."]


def test_the_substitute_is_prose_and_labels_what_it_stands_in_for() -> None:
    found = sources.read("", "substitute", [ESSAY_TASK]).essays
    assert found is not None
    assert found.text(0, 7) == "We the People of the United States,"
    assert found.sentences(10**4) > 200
    assert sources.hashes_of("", "substitute", [ESSAY_TASK]) == {"data.haystack": "substitute"}
    assert sources.label(ESSAY_TASK, "substitute") == "niah_single_2[substitute]"
    assert sources.label("niah_single_1", "substitute") == "niah_single_1"
    assert sources.label(ESSAY_TASK, "essays.txt") == ESSAY_TASK


def broken(name: str, change: Callable[[Any], Any]) -> str:
    """The text of a stand-in file, after a change of what it holds."""
    makers: dict[str, Callable[[], Any]] = {
        "PaulGrahamEssays.json": ruler_sources.essays,
        "squad.json": ruler_sources.squad,
        "hotpotqa.json": ruler_sources.hotpotqa,
    }
    content = makers[name]()
    changed = change(content)
    return json.dumps(content if changed is None else changed)


def without(*path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return change


def replaced(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


FIRST = ("data", 0, "paragraphs", 0)
BAD = [
    (ESSAY_TASK, "PaulGrahamEssays.json", lambda _: ["text"], 'not {"text": "..."} but'),
    (ESSAY_TASK, "PaulGrahamEssays.json", lambda _: {"text": 3}, 'not {"text": "..."} but'),
    (ESSAY_TASK, "PaulGrahamEssays.json", lambda _: {"text": " "}, "there are no words in it"),
    (SQUAD_TASK, "squad.json", lambda _: [], "the file is not an object but []"),
    (SQUAD_TASK, "squad.json", without("data"), "the file has no field 'data'"),
    (SQUAD_TASK, "squad.json", replaced([], "data"), "no question in it that has an answer"),
    (SQUAD_TASK, "squad.json", without(*FIRST, "qas"), "data[0].paragraphs[0] has no field 'qas'"),
    (SQUAD_TASK, "squad.json", without(*FIRST, "qas", 1, "is_impossible"), "'is_impossible'"),
    (SQUAD_TASK, "squad.json", replaced([], *FIRST, "qas", 1, "answers"), "qas[1] has no answers"),
    (
        SQUAD_TASK,
        "squad.json",
        replaced(1, *FIRST, "qas", 1, "answers", 0, "answer_start"),
        "does not stand at 1",
    ),
    (HOTPOT_TASK, "hotpotqa.json", lambda _: {}, "the file is not a list but {}"),
    (HOTPOT_TASK, "hotpotqa.json", replaced(["x"], 1, "context", 2), "[1].context[2] is not"),
    (HOTPOT_TASK, "hotpotqa.json", replaced(7, 2, "question"), "[2].question is not a text but 7"),
    (HOTPOT_TASK, "hotpotqa.json", replaced([["x", 0]], 2, "supporting_facts"), "names none of"),
]


@pytest.mark.parametrize(("task", "name", "change", "message"), BAD)
def test_a_wrong_file_is_named_with_what_is_wrong(
    there: pathlib.Path, task: str, name: str, change: Callable[[Any], Any], message: str
) -> None:
    (there / name).write_text(broken(name, change))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        sources.read(str(there), "", [task])
    assert str(error.value).startswith(f"{there / name}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["PaulGrahamEssays.json", "squad.json", "hotpotqa.json"])
def test_a_torn_file_is_named(there: pathlib.Path, name: str) -> None:
    tasks = [task for task, needed in sources.NEEDED.items() if needed == name]
    whole = (there / name).read_bytes()
    (there / name).write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=f"{name}: not JSON, torn maybe"):
        sources.read(str(there), "", tasks)
    (there / name).write_bytes(b"\xff" + whole)
    with pytest.raises(ValueError, match=f"{name}: not UTF-8"):
        sources.read(str(there), "", tasks)


def test_too_few_questions(there: pathlib.Path) -> None:
    sources.read(str(there), "", ["qa_2"], samples=40)
    with pytest.raises(ValueError, match=r"hotpotqa.json: it has 40 questions .* 41 are asked"):
        sources.read(str(there), "", ["qa_2"], samples=41)


def evaluate(here: pathlib.Path, *data: str) -> commands.Result:
    """A run with the fake engine; `data` are overrides of that section."""
    if not (here / "checkpoint").exists():
        (here / "checkpoint").mkdir()
        save_checkpoint(here / "checkpoint")
        (here / "config.py").write_text(CONFIG)
    given = [f"--config.data.{one}" for one in data]
    return commands.run(here, "star_jax.eval", "--config=config.py", *given, fake=True)


def test_a_later_question_that_is_too_long_is_named(there: pathlib.Path) -> None:
    """Of HotpotQA's questions the second has a paragraph of 9000 letters."""
    lines = ruler_sources.hotpotqa()
    lines[1]["context"][0][1].append("x" * 9000)
    (there / "hotpotqa.json").write_text(json.dumps(lines))
    result = evaluate(there, "tasks=qa_2", "lengths=8192", "sources=.", "num_samples=3")
    assert result.error.startswith("error: qa_2, sample 1: length=8192 is too short: with 10 docu")
    assert not (there / "out").exists()
    assert evaluate(there, "tasks=qa_2", "lengths=8192", "sources=.", "num_samples=1").code == 0


def test_a_run_without_its_files_says_so_before_a_model_is_loaded(tmp_path: pathlib.Path) -> None:
    (tmp_path / "files").mkdir()
    result = evaluate(tmp_path, "tasks=qa_1", "sources=files")
    assert result.error.startswith(
        "error: there is no files/squad.json, which must be there for qa_1: get it"
    )
    assert "devices" not in result.stderr  # the plan, which is printed before the model is loaded
    assert not (tmp_path / "out").exists()


def test_all_thirteen_have_a_mean(there: pathlib.Path) -> None:
    """8192 tokens, which are bytes here."""
    result = evaluate(there, "tasks=", "lengths=8192", "num_samples=1", "sources=.")
    assert result.code == 0, result.stderr
    (line,) = [one for one in result.stdout.splitlines() if one.startswith("RULER")]
    means = r"dense @ 8192 [\d.]+, star_b2048_a2048 @ 8192 [\d.]+\."
    assert re.fullmatch(rf"RULER, mean of 13 tasks: {means}", line)
    settings = json.loads((there / "out" / "manifest.json").read_text())["settings"]
    assert len(settings["data.sources.squad.json"]) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "paper"}, "data.compat: 'paper' is unknown; there is exact, ruler, star"),
        ({"compat": "star", "template": "chat"}, "has no data.template='chat', as its scripts"),
        ({"compat": "ruler", "template": "llama3"}, "there is base, meta-llama3, chat"),
        ({"tasks": "niah_single_4"}, "data.tasks: 'niah_single_4' is unknown; there is cwe, fwe"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    data = DataConfig(lengths="4096", **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        SUITES["ruler"].check(data)


def test_a_run_with_a_substitute_is_labelled(tmp_path: pathlib.Path) -> None:
    here, asked = tmp_path, ["tasks=niah_single_2,niah_single_1", "haystack=substitute"]
    result = evaluate(here, *asked)
    assert result.code == 0, result.stderr
    assert "| niah_single_2[substitute] |" in result.stdout
    assert "RULER, 1/13 tasks, so no average: dense @ 600, star_b150_a150 @ 600." in result.stdout
    found = records.read(str(here / "out/dense/600/niah_single_2[substitute].jsonl"))
    assert all("We the People" in one["input_context"] for one in found)
    settings = json.loads((here / "out/manifest.json").read_text())
    assert settings["settings"]["data.haystack"] == "substitute"
    assert settings["settings"]["data.compat"] == "exact"
    expected = commands.results(here / "out")
    again = evaluate(here, *asked, "compat=ruler")
    assert "data.compat" in again.error
    assert commands.results(here / "out") == expected
