"""Files in the layouts of the published scripts, as they are: read, cut, asked, scored."""

import json
import pathlib
from typing import Any

import commands
import pytest
import test_chat
import test_tokenizer
import transformers
from fake_engine import FakeEngine
from test_eval_runner import _here, make, run

from star_jax.eval import config, plans
from star_jax.runs import jsonl, published, records
from star_jax.text.tokenizer import Tokenizer

__all__ = ["_here"]  # a fixture

# The template of both repositories for Llama 3, with the special tokens of the test's tokenizer.
HEAD, TAIL = "<s>user\n\n", "</s><s>assistant\n\n"
NOISE = "The grass is green. The sky is blue.\n"
ICL = "Question: Find all variables that are assigned the value 64886 in the text Answer: A B\n\n"
WORDS = "Question: What are the 10 most common words in the above list?"
DOCUMENTS = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\n"
)
# (task, context, question, what the answer begins with), in RULER's wording.
TASKS = [
    (
        "niah_single_1",
        f"A special magic number is hidden within the following text. {NOISE}One of the special "
        f"magic numbers for wandering-loneliness is: 8090293.\n{NOISE}",
        "What is the special magic number for wandering-loneliness mentioned in the provided text?",
        " The special magic number for wandering-loneliness mentioned in the provided text is",
    ),
    (
        "niah_multivalue",
        f"Some special magic numbers are hidden within the following text. {NOISE}",
        "What are all the special magic numbers for roasted-poetry mentioned in the provided text?",
        " The special magic numbers for roasted-poetry mentioned in the provided text are",
    ),
    (
        "vt",
        f"Memorize and track the chain(s).\n\n{ICL}{NOISE} VAR AAAAA = 15311\n{NOISE}",
        "Question: Find all variables that are assigned the value 15311 in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables "
        "are assigned the value 15311, they are: ",
    ),
    (
        "cwe",
        f"Below is a numbered list of words.\n1. road\n{WORDS} Answer: The top 10 words that "
        "appear most often in the list are:1. road\nBelow is a numbered list of words.\n1. sea\n",
        WORDS,
        " Answer: The top 10 words that appear most often in the list are:",
    ),
    (
        "fwe",
        "Read the following coded text. eanhzo ... fkmgoo ...\n",
        "Question: Do not provide any explanation. Please ignore the dots '....'. What are the "
        "three most frequently appeared words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
    ),
    (
        "qa_1",
        f"{DOCUMENTS}The following are given documents.\n\nDocument 1:\nAnswer: none\n\n",
        f"{DOCUMENTS}Question: In what country is Normandy located?",
        " Answer:",
    ),
]


def write(path: pathlib.Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(("task", "context", "question", "prefix"), TASKS)
@pytest.mark.parametrize(("head", "tail"), [("", ""), (HEAD, TAIL)])
def test_a_whole_text_is_cut_before_its_question(
    tmp_path: pathlib.Path,
    head: str,
    tail: str,
    task: str,
    context: str,
    question: str,
    prefix: str,
) -> None:
    """With the prefix in a field of its own, as since 2025-05, and at the end, as before."""
    text = head + context + question + tail
    base = {"outputs": ["a"], "length": 99}
    write(
        tmp_path / "new.jsonl",
        {**base, "index": 1238, "input": text, "answer_prefix": prefix, "length_w_model_temp": 99},
        {**base, "index": 1238, "input": text, "answer_prefix": "", "token_position_answer": 3},
    )
    write(tmp_path / "old.jsonl", {**base, "index": 0, "input": text + prefix})
    first, second = jsonl.read(str(tmp_path / "new.jsonl"))
    (old,) = jsonl.read(str(tmp_path / "old.jsonl"))
    for line in (first, old):
        assert line.sample.context == head + context
        assert line.sample.query == question + tail + prefix
        assert line.fields["input_query"] == question + tail
        assert line.fields["answer_prefix"] == prefix
        assert (line.sample.index, line.sample.length, line.sample.outputs) == (0, 99, ("a",))
    assert (second.sample.index, second.sample.query) == (1, question + tail)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"input": "What is it? Answer:"}, "'input' has no question of RULER's tasks"),
        ({"input": DOCUMENTS + "Question: what?"}, "'input' has no context before its question"),
        ({"input": 3}, "'input' is not a string but a int"),
        ({"input": "x", "answer_prefix": 3}, "'answer_prefix' is not a string but a int"),
    ],
)
def test_what_cannot_be_cut_is_named(
    tmp_path: pathlib.Path, line: dict[str, Any], says: str
) -> None:
    write(tmp_path / "a.jsonl", {"outputs": ["a"], **line})
    with pytest.raises(ValueError, match=r"a\.jsonl:1: ") as error:
        jsonl.read(str(tmp_path / "a.jsonl"))
    assert says in str(error.value)


def test_a_cut_line_is_the_text_again() -> None:
    for _, context, question, prefix in TASKS:
        assert "".join(published.cut(context + question + prefix, None)) == (
            context + question + prefix
        )


def of_star_attention(path: pathlib.Path) -> None:
    """<data_dir>/<task>/validation.jsonl, in the template of Llama 3."""
    _, context, question, prefix = TASKS[0]
    line = {
        "index": 0,
        "input_context": HEAD + context,
        "input_query": question + TAIL + prefix,
        "outputs": ["8090293"],
        "length": 350,
    }
    write(path, line, {**line, "index": 1})


def of_ruler(path: pathlib.Path) -> None:
    _, context, question, prefix = TASKS[0]
    line = {
        "index": 77,  # the place of the answer, twice the same
        "input": HEAD + context + question + TAIL,
        "outputs": ["8090293"],
        "length": 350,
        "length_w_model_temp": 355,
        "answer_prefix": prefix,
        "token_position_answer": 41,
    }
    write(path, line, line)


ASK: dict[str, Any] = {
    "data__suite": "jsonl",
    "data__lengths": "",
    "attention__block_size": "64",
    "attention__anchor_size": "b",
}


@pytest.mark.parametrize("layout", [of_star_attention, of_ruler])
def test_validation_files_run_as_they_are(here: pathlib.Path, layout: Any) -> None:
    """Both layouts give the same questions; the template's tokens are tokens."""
    layout(here / "data" / "niah_single_1" / "validation.jsonl")
    given = {**ASK, "data__path": "data/{task}/validation.jsonl", "data__tasks": "niah_single_1"}
    run(**given, data__template="rendered")
    found = records.read("out/dense/all/niah_single_1.jsonl")
    _, context, question, prefix = TASKS[0]
    assert [one["index"] for one in found] == [0, 1]
    tokenizer = Tokenizer.from_pretrained("checkpoint")
    assert tokenizer is not None
    ids = tokenizer.encode_context(HEAD + context, special=True)
    for one in found:
        assert one["input_context"] == HEAD + context
        assert one["input_query"] == question + TAIL + prefix
        assert (one["score"], one["length"]) == (1.0, 350)
        assert one["n_context_tokens"] == len(ids)
    assert ids[0] == 0
    assert ids[1] != 0  # one BOS


@pytest.mark.parametrize(("is_whole", "fwe"), [(True, 50), (False, 120)])
def test_files_of_rulers_tasks_are_asked_and_scored_as_ruler_does(
    here: pathlib.Path, is_whole: bool, fwe: int
) -> None:
    """Unless the configuration says otherwise; the two repositories differ in one number."""
    for task, context, question, prefix in TASKS:
        halves = {"input_context": context, "input_query": question + prefix}
        text = {"input": context + question, "answer_prefix": prefix} if is_whole else halves
        write(here / "data" / task / "validation.jsonl", {**text, "outputs": ["no idea", "else"]})
    named = {
        "data__path": "data/{task}/validation.jsonl",
        "data__tasks": ",".join(task for task, *_ in TASKS),
        "generation__max_new_tokens": 0,
    }
    cells = plans.make(config.resolve(make(**ASK, **named))).cells
    tokens = {"niah_single_1": 128, "niah_multivalue": 128, "vt": 30, "cwe": 120, "fwe": fwe}
    assert {cell.task: cell.max_new_tokens for cell in cells} == {**tokens, "qa_1": 32}
    found = {cell.task: cell.metric.name for cell in cells}
    assert found.pop("qa_1") == "string_match_part"
    assert set(found.values()) == {"string_match_all"}

    asked = {"data__metric": "exact_match", "generation__max_new_tokens": 9}
    cells = plans.make(config.resolve(make(**ASK, **(named | asked)))).cells
    assert {(cell.metric.name, cell.max_new_tokens) for cell in cells} == {("exact_match", 9)}

    one = named | {"data__tasks": "qa_1"}
    run(**ASK, **one)
    (record,) = records.read("out/dense/all/qa_1.jsonl")
    assert (record["score"], record["metric"]) == (1.0, "string_match_part")  # one of two will do
    with pytest.raises(ValueError, match=r"metric and tokens was .*_part.* and is .*_all"):
        run(**ASK, **one, data__metric="match_all")


def test_the_users_own_files_are_called_what_they_like(here: pathlib.Path) -> None:
    for name in ("qa_1", "qa_3"):
        write(here / f"{name}.jsonl", {"input_context": "c", "input_query": "q", "output": "a"})
    for path, task in (("{task}.jsonl", "qa_3"), ("qa_1.jsonl", "")):
        given = {**ASK, "data__path": path, "data__tasks": task, "generation__max_new_tokens": 0}
        (cell,) = plans.make(config.resolve(make(**given))).cells
        assert (cell.metric.name, cell.max_new_tokens) == ("string_match_all", 128)


def test_what_spells_special_tokens_is_told(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_star_attention(here / "a.jsonl")
    run(**ASK, data__path="a.jsonl", data__tasks="")
    assert (
        "a.jsonl spells special tokens, as text: data.template=rendered" in capsys.readouterr().err
    )
    run(**ASK, data__path="a.jsonl", data__tasks="", data__template="rendered", output_dir="b")
    assert "spells" not in capsys.readouterr().err
    as_text, as_tokens = (
        records.read(f"{out}/dense/all/a.jsonl")[0]["n_query_tokens"] for out in ("out", "b")
    )
    assert as_text == as_tokens + len("</s>") + len("<s>") - 2


def test_ruler_lines_in_the_models_own_template(tmp_path: pathlib.Path) -> None:
    """What the answer begins with comes after the header of the assistant's turn."""
    test_tokenizer.save(tmp_path, adds="<s> $A")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.chat_template = test_chat.LLAMA3
    theirs.save_pretrained(tmp_path)
    _, context, question, prefix = TASKS[0]
    write(tmp_path / "a.jsonl", {"input": context + question + prefix, "outputs": ["8090293"]})
    (line,) = jsonl.read(str(tmp_path / "a.jsonl"))
    sample = jsonl.in_template(line, "chat", test_tokenizer.load(tmp_path))
    assert sample.context.endswith(context)
    assert sample.query.startswith(question)
    assert sample.query.endswith(test_chat.HEADERS["llama3"] + prefix)


def test_babilong_files_and_the_users_own(here: pathlib.Path) -> None:
    """<task>_<length>.jsonl of the method's scripts; a file with `output` and no index."""
    line = {
        "index": 0,
        "input_context": HEAD + "<context>\nJohn went to the garden.\n</context>\n\n",
        "input_query": "Question: Where is John? </s><s>assistant",
        "outputs": ["idea"],  # the fake engine says "no idea"
    }
    for task in ("qa1", "qa2"):
        write(here / f"data/{task}_16k.jsonl", line, {**line, "index": 1, "outputs": ["garden"]})
    given = {**ASK, "data__path": "data/{task}_16k.jsonl", "data__tasks": "qa1,qa2"}
    run(**given, data__template="rendered")
    for task in ("qa1", "qa2"):
        found = records.read(f"out/dense/all/{task}.jsonl")
        assert [one["score"] for one in found] == [1.0, 0.0]
    write(here / "own.jsonl", {"input_context": "c\n", "input_query": "q", "output": "idea"})
    run(**ASK, data__path="own.jsonl", data__tasks="", output_dir="own")
    assert [one["score"] for one in records.read("own/dense/all/own.jsonl")] == [1.0]
    assert FakeEngine.loaded == 2


def test_infer_takes_them_too(here: pathlib.Path) -> None:
    of_ruler(here / "validation.jsonl")
    flags = {
        "model_path": "checkpoint",
        "attn_type": "dense",
        "tokens_to_generate": 16,
        "input_path": "validation.jsonl",
        "output_path": "out.jsonl",
        "template": "rendered",
    }
    argv = [f"--{name}={value}" for name, value in flags.items()]
    result = commands.run(here, "star_jax.infer", *argv, code=_INFER.format(argv=argv))
    assert result.code == 0, result.stderr
    assert [one["score"] for one in records.read(str(here / "out.jsonl"))] == [1.0, 1.0]


_INFER = """
import sys
import fake_engine
from star_jax import infer
from star_jax.runs import cli
infer.Engine = fake_engine.FakeEngine
sys.argv = ["infer", *{argv}]
cli.run(infer.main)
"""
