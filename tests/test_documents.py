"""What `star_jax.chat` reads: text, JSON lines, the standard input."""

import io
import os
import pathlib
import types
from typing import Any

import pytest

from star_jax.chat import documents


def test_text_is_read_as_it_is(tmp_path: pathlib.Path) -> None:
    for name in ("a.txt", "a.md", "a", "a.rst"):
        (tmp_path / name).write_text("\ufeff\n# Title\n\n  one é\ttwo\n\n")
        assert documents.read(str(tmp_path / name)) == "# Title\n\n  one é\ttwo"


def test_json_lines_are_texts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\n", "n": 1}\n\n"two"\n')
    assert documents.read(str(path)) == "one\n\ntwo"


def test_the_standard_input_is_read(monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"one\n")))
    assert documents.read("-") == "one"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n", "a.txt is empty"),
        ("a.txt", b"one \xff", "no text in UTF-8: invalid start byte at byte 4"),
        ("a.pdf", b"%PDF\0", "null characters"),
        ("a.jsonl", b"\n", "a.jsonl is empty"),
        ("a.jsonl", b'"one"\n{', "a.jsonl, line 2: this is no JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: this is no JSON"),
        ("a.jsonl", b'{"words": "one"}', 'line 1: no string, and no object with a "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: no string, and no object with a "text"'),
    ],
)
def test_what_is_no_document_is_refused(
    tmp_path: pathlib.Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=says):
        documents.read(str(tmp_path / name))


def test_what_has_no_end_is_refused(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(ValueError, match="only a regular file"):
            documents.read(path)
    monkeypatch.setattr(documents, "MOST", 3)
    (tmp_path / "a.txt").write_text("four")
    with pytest.raises(ValueError, match="has more than 3 bytes"):
        documents.read(str(tmp_path / "a.txt"))
    with pytest.raises(FileNotFoundError):
        documents.read(str(tmp_path / "b.txt"))
