"""BABILong and InfiniteBench from their files and without, as runs; and files that are wrong."""

import codecs
import json
import pathlib
import sys
from typing import Any

import fake_engine
import pyarrow
import pyarrow.parquet
import pytest
from fake_engine import FakeEngine
from test_eval_runner import make, results
from test_infinitebench import line
from test_infinitebench import write as write_lines
from test_tokenizer import load, save

from star_jax.eval import config, runner
from star_jax.eval.babilong import files
from star_jax.eval.fitting import Frame
from star_jax.eval.ruler import TEMPLATES
from star_jax.runs import records

HEAD, TAIL = TEMPLATES["llama3"]
ROWS = [
    {
        "input": f" Mary moved to the {place}. It rained {i} days. ",
        "question": "Where is Mary? ",
        "target": place,
    }
    for i, place in enumerate(["kitchen", "garden", "office"] * 9)
]


@pytest.fixture(name="here", autouse=True)
def _here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "Engine", FakeEngine)
    monkeypatch.setattr(FakeEngine, "loaded", 0)
    fake_engine.save_checkpoint(tmp_path / "checkpoint")
    return tmp_path


def run(**changes: Any) -> str:
    settings = {"attention__anchor_size": "b", "generation__max_new_tokens": 8}
    return runner.run(config.resolve(make(**(settings | changes))))


def babilong(**changes: Any) -> str:
    given = {"data__suite": "babilong", "data__tasks": "qa1", "data__lengths": "1024"}
    return run(**(given | {"data__path": "data"} | changes))


def save_rows(folder: pathlib.Path, rows: Any, name: str = "qa1-00000-of-00001") -> pathlib.Path:
    path = folder / "data" / "1k" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=10)
    return path


def save_prepared(folder: pathlib.Path, *lines: dict[str, Any]) -> pathlib.Path:
    (folder / "data").mkdir(exist_ok=True)
    return pathlib.Path(write_lines(folder / "data", "qa1_1k", *lines))


def prepared(i: int, template: str = "base", **changes: Any) -> dict[str, Any]:
    before, after = TEMPLATES[template]
    context = f"{before}Do it.\n\n<context>\n{ROWS[i]['input'].strip()}\n</context>\n\n"
    return {
        "index": i,
        "input_context": context,
        "input_query": f"Question: Where is Mary? {after}".strip(),
        "outputs": [ROWS[i]["target"]],
        **changes,
    }


def test_the_data_sets_rows_are_asked(here: pathlib.Path) -> None:
    save_rows(here, ROWS)
    babilong(data__num_samples=-1, attention__kind="dense")
    found = records.read("out/dense/1024/qa1.jsonl")
    assert [one["outputs"] for one in found] == [[row["target"]] for row in ROWS]
    assert [one["index"] for one in found] == list(range(27))
    for one, row in zip(found, ROWS, strict=True):
        assert one["input_context"].endswith(
            f"\n\n<context>\n{row['input'].strip()}\n</context>\n\n"
        )
        assert one["input_query"] == "Question: Where is Mary?"
        assert one["metric"] == "babilong compare_answers"
    (digest,) = json.loads((here / "out" / "manifest.json").read_text())["settings"]["data.path"][
        "qa1@1024"
    ]
    assert len(digest) == 64


def test_rows_come_in_any_order_and_from_several_pieces(here: pathlib.Path) -> None:
    save_rows(here, ROWS[:14], "qa1-00000-of-00002")
    save_rows(here, ROWS[14:], "qa1-00001-of-00002")
    save(here / "tokenizer", adds="<s> $A")
    frame = Frame.make("base", load(here / "tokenizer"), length=1024, max_new_tokens=20)
    source = files.read(files.paths("data", "qa1", 1024), "qa1", frame)
    assert source.indices == range(27)
    for position in (0, 0, 13, 14, 26, 3, 4, 20):
        assert source.sample(position).outputs == (ROWS[position]["target"],)
        assert str(ROWS[position]["input"]).strip() in source.sample(position).context


@pytest.mark.parametrize("template", ["base", "llama3"])
def test_prepared_lines_run_unchanged(template: str, here: pathlib.Path) -> None:
    lines = [prepared(i, template) for i in range(4)]
    save_prepared(here, *lines)
    babilong(data__template=template, attention__kind="dense")
    for one, given in zip(records.read("out/dense/1024/qa1.jsonl"), lines, strict=True):
        assert {name: one[name] for name in given} == given
        assert one["score"] == 0


def test_what_prepared_lines_ask_is_found_in_them(here: pathlib.Path) -> None:
    path = save_prepared(here, prepared(0, "llama3"))
    save(here / "tokenizer", adds="<s> $A")
    frame = Frame.make("llama3", load(here / "tokenizer"), length=1024, max_new_tokens=20)
    sample = files.read([str(path)], "qa1", frame).sample(0)
    assert sample.facts == {"task": "qa1", "question": "Where is Mary?"}
    # What the template wrote is known as that, and the rest as a user's.
    assert sample.context.parts[0] == (HEAD, True)
    assert sample.context.parts[1][1] is False
    assert sample.query.parts == (("Question: Where is Mary? ", False), (TAIL.strip(), True))


def test_prepared_lines_keep_their_index_and_may_begin_with_a_mark(here: pathlib.Path) -> None:
    """As a program on Windows saves a part of a file: its byte order mark first."""
    lines = [prepared(i) | {"index": 500 + i} for i in range(3)]
    path = save_prepared(here, *lines)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    babilong(data__num_samples=2)
    found = records.read("out/dense/1024/qa1.jsonl")
    assert [one["index"] for one in found] == [500, 501]
    whole = {"input": "x\nAnswer the question based on the given documents. Q?", "outputs": ["a"]}
    save_prepared(here, whole)
    with pytest.raises(ValueError, match=r"qa1_1k.jsonl:1: no 'input_context', as BABILong's"):
        babilong()


def test_a_question_without_room_is_named_before_any_model(here: pathlib.Path) -> None:
    """The second one is not among the first that are asked, and then is."""
    (here / "data").mkdir()
    long = line("longbook_qa_eng", input="word " * 300, context="another book")
    write_lines(here / "data", "longbook_qa_eng", line("longbook_qa_eng"), long)
    asked = {"data__suite": "infinitebench", "data__tasks": "longbook_qa_eng"}
    asked |= {"data__path": "data", "data__lengths": "600"}
    run(**asked, data__num_samples=1)
    loaded = FakeEngine.loaded
    with pytest.raises(ValueError, match=r"qa_eng.jsonl:2: length=600 is too short: without any"):
        run(**asked, data__num_samples=2)
    assert FakeEngine.loaded == loaded


def test_what_is_generated_is_marked_and_can_be_gone_on_with(here: pathlib.Path) -> None:
    babilong(data__path="", data__lengths="2000", data__tasks="qa1,qa5", data__num_samples=2)
    babilong(data__path="", data__lengths="2000", data__tasks="qa1,qa5", data__num_samples=3)
    names = {name for name in results(here / "out") if name.endswith(".jsonl")}
    rows = ("dense", "star_b500_a500")
    assert names == {f"{row}/2000/{t}[generated].jsonl" for row in rows for t in ("qa1", "qa5")}
    for one in records.read("out/star_b500_a500/2000/qa1[generated].jsonl"):
        assert one["n_context_tokens"] + one["n_query_tokens"] + 8 == one["length"] <= 2000
        assert one["needles"] and one["needle_cut"] in (True, False)
    assert "qa5[generated]" in (here / "out" / "summary.md").read_text()
    first = results(here / "out")
    runner.run(
        config.resolve(
            make(
                attention__anchor_size="b",
                generation__max_new_tokens=8,
                data__suite="babilong",
                data__tasks="qa1,qa5",
                data__lengths="2000",
                data__num_samples=3,
                output_dir="again",
            )
        )
    )
    again = results(here / "again")
    for name in names:
        assert again[name] == first[name]


def test_infinitebench_runs_from_its_files(here: pathlib.Path) -> None:
    (here / "data").mkdir()
    contexts = ["a book " * 200, "a tale " * 200]
    for task in ("longbook_qa_eng", "code_debug"):
        lines = [line(task, context=contexts[i % 2]) for i in range(4)]
        write_lines(here / "data", task, *lines)
    run(
        data__suite="infinitebench",
        data__tasks="longbook_qa_eng,code_debug",
        data__path="data",
        data__lengths="600,900",
        data__num_samples=-1,
    )
    for length in (600, 900):
        found = records.read(f"out/dense/{length}/longbook_qa_eng.jsonl")
        assert [one["index"] for one in found] == [0, 2, 1, 3]
        assert all(one["length"] <= length for one in found)
        assert {one["metric"] for one in found} == {"f1"}
    settings = json.loads((here / "out" / "manifest.json").read_text())["settings"]
    assert sorted(settings["data.path"]) == ["code_debug", "longbook_qa_eng"]


def test_infinitebench_is_generated_without_a_path(here: pathlib.Path) -> None:
    run(data__suite="infinitebench", data__tasks="", data__lengths="900", data__num_samples=2)
    found = {pathlib.Path(name).name for name in results(here / "out") if "900/" in name}
    made = ("passkey", "number_string", "kv_retrieval", "math_find")
    assert found == {f"{task}[generated].jsonl" for task in made}


@pytest.mark.parametrize(
    ("suite", "changes", "says"),
    [
        ("babilong", {"lengths": "1000"}, "1000 is none of BABILong's; there is 1024 (1k), 2048"),
        ("babilong", {"lengths": ""}, "data.lengths is empty"),
        ("babilong", {"tasks": "qa21"}, "data.tasks: 'qa21' is unknown; there is qa1, qa2"),
        ("babilong", {"tasks": "qa6", "path": ""}, "data.tasks: qa6 is not generated, as qa1, qa2"),
        ("babilong", {"template": "alpaca"}, "data.template: 'alpaca' is unknown"),
        ("babilong", {"lengths": "300", "path": ""}, "length=300 is too short"),
        ("babilong", {"path": "nowhere"}, "qa1_1k.jsonl in nowhere (no such directory); hf down"),
        ("babilong", {"path": "."}, "hf download RMT-team/babilong-1k-samples --repo-type dataset"),
        ("infinitebench", {"tasks": "passkeys"}, "'passkeys' is unknown"),
        ("infinitebench", {"tasks": "passkey"}, "there is no data/passkey.jsonl (data.path=data"),
        ("infinitebench", {"tasks": "passkey"}, "hf download xinrongzhang2022/InfiniteBench"),
        ("infinitebench", {"tasks": "math_calc", "path": ""}, "math_calc is not generated"),
        ("infinitebench", {"tasks": "passkey", "lengths": ""}, "data.lengths is empty"),
    ],
)
def test_bad_settings_are_one_line_before_any_model(
    suite: str, changes: dict[str, Any], says: str
) -> None:
    given = {"tasks": "qa1", "lengths": "1024", "path": "data"} | changes
    with pytest.raises((ValueError, OSError)) as e:
        run(data__suite=suite, **{f"data__{name}": value for name, value in given.items()})
    assert says in str(e.value)
    assert "\n" not in str(e.value)
    assert FakeEngine.loaded == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"input": "a", "question": "b"}], "no column ['target']; there is ['input', 'question']"),
        ([{**ROWS[0], "target": 3}], "row 0: 'target' is not a string but 3"),
        ([ROWS[0], {**ROWS[0], "input": None}], "row 1: 'input' is not a string but None"),
        ([ROWS[0], {**ROWS[0], "question": " "}], "row 1: 'question' is empty"),
        ([], "no column"),
    ],
)
def test_a_wrong_column_is_one_line(rows: Any, says: str, here: pathlib.Path) -> None:
    save_rows(here, rows)
    with pytest.raises(ValueError, match=r"^data/1k/qa1-00000-of-00001.parquet: ") as e:
        babilong()
    assert says in str(e.value)
    assert FakeEngine.loaded == 0


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, -30), slice(40, None), slice(0, 700)])
def test_a_torn_parquet_is_one_line(cut: slice, here: pathlib.Path) -> None:
    path = save_rows(here, ROWS)
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(ValueError, match=r"^data/1k/qa1-00000-of-00001.parquet: ") as e:
        babilong()
    assert "\n" not in str(e.value)
    assert FakeEngine.loaded == 0


def test_a_parquet_with_damaged_pages_is_one_line(here: pathlib.Path) -> None:
    path = save_rows(here, ROWS)
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^data/1k/qa1-00000-of-00001.parquet: "):
        babilong()


def test_a_missing_piece_or_package_is_one_line(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(here, ROWS, "qa1-00001-of-00002")
    with pytest.raises(FileNotFoundError, match="its other pieces are missing"):
        babilong()
    (here / "data/1k/qa1-00001-of-00002.parquet").rename(
        here / "data/1k/qa1-00000-of-00001.parquet"
    )
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"package pyarrow .*: pip install 'star-jax\[suites\]'$"):
        babilong()
    assert FakeEngine.loaded == 0


@pytest.mark.parametrize(
    ("template", "bad", "says"),
    [
        ("base", {"outputs": ["a", "b"]}, "'outputs' has 2 answers, and not 1"),
        ("base", {"outputs": None}, "'outputs' has 0 answers, and not 1"),
        ("base", {"input_query": 3}, "'input_query' is not a string but a int"),
        ("base", prepared(1, "llama3"), "for data.template='base'; it fits llama3"),
        ("llama3", prepared(1, "base"), "has not been prepared for data.template='llama3'"),
        ("llama3", {"input_query": "Question: a?"}, "'input_query' does not end as data.template="),
        ("base", {"answer_prefix": "A:"}, "it has an 'answer_prefix', and BABILong's lines have"),
    ],
)
def test_a_bad_prepared_line_is_named(
    template: str, bad: dict[str, Any], says: str, here: pathlib.Path
) -> None:
    save_prepared(here, prepared(0, template), prepared(1, template) | bad)
    with pytest.raises(ValueError, match=r"^data/qa1_1k.jsonl:2: ") as e:
        babilong(data__template=template)
    assert says in str(e.value)
    assert FakeEngine.loaded == 0
