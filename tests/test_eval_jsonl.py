"""Questions from JSON lines: what is read, and how errors name file and line."""

import codecs
import json
import pathlib
from typing import Any

import pytest
import test_tokenizer

from star_jax import json_files
from star_jax.eval import config
from star_jax.eval.suites import SUITES
from star_jax.runs import jsonl
from star_jax.runs.sample import Sample

GOOD = {"index": 4, "input_context": "c", "input_query": "q", "outputs": ["a", "b"]}


def write(path: pathlib.Path, *lines: dict[str, Any] | str | bytes) -> str:
    file = path / "in.jsonl"
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    file.write_bytes(
        b"\n".join(text if isinstance(text, bytes) else text.encode() for text in texts)
    )
    return str(file)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def test_reads_the_references_format(tmp_path: pathlib.Path) -> None:
    path = write(
        tmp_path,
        {**GOOD, "length": 12, "others": {"x": 1}},
        "",
        {"index": 0, "input_context": "é中\u2028x", "input_query": "q", "output": "a"},
        {"index": 9, "input_context": "c", "input_query": "q"},
        {"index": 8, "input_context": "c", "input_query": "q", "outputs": None, "output": None},
        "   ",
    )
    lines = jsonl.read(path)
    assert [line.sample for line in lines] == [
        Sample(4, "c", "q", ("a", "b"), length=12, given={"others": {"x": 1}, "length": 12}),
        Sample(0, "é中\u2028x", "q", ("a",)),
        Sample(9, "c", "q", ()),
        Sample(8, "c", "q", ()),
    ]
    assert lines[0].fields["others"] == {"x": 1}


def test_numbers_and_lists_of_answers_are_taken(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "in.jsonl"
    base = {"index": None, "input_context": "c", "input_query": "q"}
    lines = [{**base, "outputs": [8253906]}, {**base, "output": ["a", "b"]}, {**base, "output": 7}]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = [line.sample for line in jsonl.read(str(path))]
    assert [sample.outputs for sample in found] == [("8253906",), ("a", "b"), ("7",)]
    assert [sample.index for sample in found] == [0, 1, 2]


def test_what_is_not_used_may_be_anything(tmp_path: pathlib.Path) -> None:
    (line,) = jsonl.read(write(tmp_path, {**GOOD, "score": float("nan"), "x": [[float("inf")]]}))
    assert line.sample.outputs == ("a", "b")


def test_a_line_may_be_longer_than_other_json(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "LIMIT", 8)
    assert jsonl.read(write(tmp_path, GOOD))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: pathlib.Path) -> None:
    first = codecs.BOM_UTF8 + json.dumps(GOOD).encode()
    assert len(jsonl.read(write(tmp_path, first, {**GOOD, "index": 5}))) == 2


def test_outputs_count_more_than_output(tmp_path: pathlib.Path) -> None:
    (line,) = jsonl.read(write(tmp_path, {**GOOD, "output": "z"}))
    assert line.sample.outputs == ("a", "b")


@pytest.mark.parametrize("none", [without("index"), {**GOOD, "index": -1}])
def test_without_an_index_the_position_counts(tmp_path: pathlib.Path, none: dict[str, Any]) -> None:
    lines = jsonl.read(write(tmp_path, none, none, "\r", none))
    assert [line.sample.index for line in lines] == [0, 1, 2]
    assert not any(map(jsonl.has_index, lines))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"input_context": "c", "input_query', "not JSON"),
        ("nonsense", "not JSON"),
        (b'{"input_context": "\xff\xfe", "input_query": "q"}', "not JSON"),
        ("[1, 2]", "not a JSON object but a list"),
        ("3", "not a JSON object but a int"),
        ('{"input_context": "c", "input_query": "q", "input_context": "d"}', "['input_context']"),
        ('{"input_context": "c", "input_query": "q", "others": {"a": 1, "a": 2}}', "duplicate"),
        ({**GOOD, "others": [float("nan")]}, "'others' has the number nan, which JSON cannot say"),
        ('{"input_context": "c", "input_query": "q", "length": 1e999}', "'length' has the number"),
        (without("input_context"), "no 'input_context'; there is ['index', 'input_query'"),
        (without("input_query"), "no 'input_query'"),
        ({**GOOD, "input_context": ""}, "'input_context' is empty"),
        ({**GOOD, "input_query": " \n"}, "'input_query' is empty"),
        ({**GOOD, "input_context": None}, "'input_context' is not a string but a NoneType"),
        ({**GOOD, "input_query": 3}, "'input_query' is not a string but a int"),
        ({**GOOD, "input_query": "\ud800"}, "'input_query' is not valid text"),
        ({**GOOD, "index": "7"}, "index='7' is not an integer"),
        ({**GOOD, "index": 1.5}, "index=1.5 is not an integer"),
        ({**GOOD, "index": True}, "index=True is not an integer"),
        ({**GOOD, "index": 1}, "index=1 is also that of line 1"),
        (without("index"), "either all lines have an index or none"),
        ({**GOOD, "outputs": "a"}, "'outputs' is not a list but a str"),
        ({**GOOD, "outputs": [None]}, "'outputs' is not a string but a NoneType"),
        ({**GOOD, "outputs": ["a", " "]}, "'outputs' has an empty answer"),
        ({"input_context": "c", "input_query": "q", "output": ""}, "'output' has an empty answer"),
        ({**GOOD, "outputs": [float("nan")]}, "'outputs' has the number nan, which JSON cannot"),
        ({"input_context": "c", "input_query": "q", "output": float("inf")}, "the number inf"),
        ({**GOOD, "outputs": [], "output": " "}, "'output' has an empty answer"),
        ({"input_context": "c", "input_query": "q", "output": [[]]}, "'output' is not a string"),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: pathlib.Path, line: dict[str, Any] | str | bytes, says: str
) -> None:
    path = write(tmp_path, {**GOOD, "index": 1}, "", line, {**GOOD, "index": 3})
    with pytest.raises(ValueError) as error:  # noqa: PT011
        jsonl.read(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert says in str(error.value)


def test_a_file_without_questions_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no questions"):
        jsonl.read(write(tmp_path, "", ""))
    with pytest.raises(FileNotFoundError):
        jsonl.read(str(tmp_path / "none.jsonl"))


def test_more_samples_than_there_are_is_all(tmp_path: pathlib.Path) -> None:
    test_tokenizer.save(tmp_path, adds=None, named=False)
    path = write(tmp_path, GOOD, {**GOOD, "index": 7}, {**GOOD, "index": 1})
    for asked, indices in ((10, [4, 7, 1]), (-1, [4, 7, 1]), (2, [4, 7])):
        given = config.EvalConfig(
            model=config.ModelConfig(),
            attention=config.AttentionConfig(kind="dense"),
            mesh=config.MeshConfig(),
            data=config.DataConfig(suite="jsonl", path=path, num_samples=asked),
            generation=config.GenerationConfig(),
            output_dir="out",
        )
        (cell,) = SUITES["jsonl"].cells(given, test_tokenizer.load(tmp_path))
        assert cell.indices == indices
