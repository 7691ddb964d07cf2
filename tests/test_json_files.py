"""JSON of others: an object, or one line of error."""

import json
import os
import pathlib

import pytest

from star_jax import json_files
from star_jax.printable import printable


def test_an_object_is_read(tmp_path: pathlib.Path) -> None:
    fields = {"a": [1, 2.5, None, True, {"é": "\u2028"}], "b": {}}
    (tmp_path / "x.json").write_text(json.dumps(fields))
    assert json_files.read(tmp_path / "x.json") == fields


NESTED = "[" * 100_000
WRONG = {
    "empty": b"",
    "half": b'{"a": 1',
    "a list": b"[]",
    "text": b'"a"',
    "null": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": b"\0" * 100,
    "twice": b'{"a": 1, "a": 1}',
    "twice within": b'{"b": [{"a": 1, "a": 2}]}',
    "lists": NESTED.encode(),
    "closed lists": (NESTED + "]" * 100_000).encode(),
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "digits": b'{"a": ' + b"9" * 10_000 + b"}",
    "escape codes": b'{"\\u001b[31m": 1, "\\u001b[31m": 2}',
    "raw escape codes": b'{"\x1b[31m": 1}',
}


@pytest.mark.parametrize("case", WRONG)
def test_everything_else_is_one_line(case: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(WRONG[case])
    with pytest.raises(ValueError, match=r"x\.json: not ") as error:
        json_files.read(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_size_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text('{"a": 12}')
    monkeypatch.setattr(json_files, "LIMIT", 9)
    assert json_files.read(tmp_path / "x.json") == {"a": 12}
    monkeypatch.setattr(json_files, "LIMIT", 8)
    with pytest.raises(ValueError, match="more than 8 bytes"):
        json_files.read(tmp_path / "x.json")


def test_only_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match="not a regular file"):
            json_files.read(path)
    with pytest.raises(OSError, match="directory"):
        json_files.read(tmp_path)


def test_what_is_shown_is_short_and_steers_nothing() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        "\x1b[31m" * 1000,
        deep,
        dict.fromkeys(range(10**5)),
        "\u202e",
        10**4000,
        "\ud800",
    ):
        text = json_files.shown(value)
        assert text.isprintable()
        assert len(text) < 2000
    assert json_files.shown(0.25) == "0.25"
    assert json_files.shown("a'b") == repr("a'b")
    assert printable("\x1b[0m\ud800é") == "\\x1b[0m\\ud800é"
