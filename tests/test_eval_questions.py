"""What of the settings reaches the engine: the model's chat template, and how tokens are drawn."""

import json
import pathlib
from typing import Any

import pytest
import test_chat
import transformers
from fake_engine import FakeEngine
from test_eval_runner import TASKS, _here, jsonl, run

from star_jax.runs import records

__all__ = ["_here"]  # the fixture of every test


@pytest.mark.parametrize("suite", ["ruler", "jsonl"])
def test_questions_in_the_models_chat_template(here: pathlib.Path, suite: str) -> None:
    """Cut between context and question; the answer's prefix after the assistant's header."""
    theirs = transformers.AutoTokenizer.from_pretrained(here / "checkpoint")
    theirs.chat_template = test_chat.LLAMA3
    theirs.save_pretrained(here / "checkpoint")
    path = jsonl(here)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(line | {"answer_prefix": " It is"}) + "\n" for line in lines)
    )
    given = {"data__path": str(path), "data__lengths": ""} if suite == "jsonl" else {}
    sizes = {"attention__block_size": "64"} if suite == "jsonl" else {}
    run(data__suite=suite, data__template="chat", **given, **sizes)
    names = {"ruler": "600/niah_single_1", "jsonl": "all/questions"}
    found = records.read(f"out/dense/{names[suite]}.jsonl")
    assert len(found) == 5
    for one in found:
        assert one["input_context"].startswith("<s><|start_header_id|>user<|end_header_id|>\n\n")
        question, answer = one["input_query"].split(test_chat.HEADERS["llama3"])
        assert question.endswith("mentioned" if suite == "jsonl" else "provided text?")
        assert answer.startswith(" It is" if suite == "jsonl" else " The special magic number")
        assert one["score"] == 1.0
        if suite == "ruler":
            used = one["n_context_tokens"] + one["n_query_tokens"] + 7 + 16
            assert used == one["length"] <= 600


def test_a_question_that_a_template_cannot_be_cut_around_is_named(here: pathlib.Path) -> None:
    """As templates that take something out of messages cannot."""
    template = test_chat.LLAMA3.replace("| trim", "| trim | replace('~', '')")
    assert template != test_chat.LLAMA3
    (here / "checkpoint" / "chat_template.jinja").write_text(template)
    path = jsonl(here)
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"input_query": "the ~ number"})
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"{path}:3: the chat template changes a user's message"):
        run(
            data__suite="jsonl",
            data__path=str(path),
            data__lengths="",
            data__template="chat",
            attention__block_size="64",
        )
    assert FakeEngine.loaded == 0


def test_draws_reach_the_engine_with_seeds(here: pathlib.Path, monkeypatch: Any) -> None:
    seen = []
    generate = FakeEngine.generate

    def note(self: FakeEngine, *args: Any, sampling: Any = None, **options: Any) -> Any:
        seen.append(sampling)
        return generate(self, *args, **options)

    monkeypatch.setattr(FakeEngine, "generate", note)
    changes = {"attention__kind": "dense", "data__lengths": "600", "data__tasks": TASKS[0]}
    run(**changes, generation__temperature=0.7, generation__seed=3)
    assert [one.seed for one in seen] == [
        (3 * 2**32, 3 * 2**32 + 1),
        (3 * 2**32 + 2, 3 * 2**32 + 3),
        (3 * 2**32 + 4,),
    ]
    assert {one.temperature for one in seen} == {0.7}
    with pytest.raises(ValueError, match=r"generation\.temperature was 0\.7 and is 0\.0"):
        run(**changes)
