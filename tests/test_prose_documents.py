"""Prose whose second part is scored: all parts follow each other, and no scored one comes twice."""

import pytest

from benchmarks import documents
from tools import prose_documents


def words(text: str) -> int:
    return len(text.split())


def test_parts_follow_each_other_and_are_scored_once() -> None:
    text = " ".join(documents.sentences())
    parts = list(prose_documents.split(200, 100, 20, words))
    longest = max(map(words, documents.sentences()))
    twice = f"{text} {text}"
    for context, query, scored in parts:
        assert f"{context}{query}{scored}" in twice
        assert 200 <= words(context) < 200 + longest
        assert 100 <= words(scored) < 100 + longest
    at = [text.index(scored.strip()) for _, _, scored in parts]
    ends = [start + len(scored.strip()) for start, (_, _, scored) in zip(at, parts, strict=True)]
    assert all(end < start for end, start in zip(ends, at[1:], strict=False))


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the prose has"):
        list(prose_documents.split(100, 10**6, 1, words))
