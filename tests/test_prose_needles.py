"""Needles in prose: what is asked is there once, and a question is as long as it may be."""

import pytest

from tools import prose_needles


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("length", [500, 1000, 2000])
def test_a_question_fits_and_can_be_answered(length: int) -> None:
    longest = max(map(words, prose_needles.sentences()))
    for index in range(5):
        fields = prose_needles.question(index, length, words)
        (value,) = fields["outputs"]
        assert fields["input_context"].count(f" is: {value}.") == 1
        assert fields["input_context"].count(" is: ") == prose_needles.NEEDLES
        whole = words(fields["input_context"] + fields["input_query"] + fields["answer_prefix"])
        assert 0 <= length - prose_needles.MARGIN - whole < longest
        assert fields == prose_needles.question(index, length, words)


def test_questions_of_one_text_are_about_different_needles() -> None:
    four = [prose_needles.question(3, 500, words, asked=i) for i in range(4)]
    assert len({line["input_context"] for line in four}) == 1
    for field in ("input_query", "answer_prefix"):
        assert len({line[field] for line in four}) == 4
    for line in four:
        key = line["answer_prefix"].split(" for ")[1].split(" ")[0]
        assert f" for {key} is: {line['outputs'][0]}." in line["input_context"]


@pytest.mark.parametrize(
    ("length", "says"), [(-5, "too short"), (150, "too short"), (10**9, "more than")]
)
def test_a_length_that_cannot_be_is_refused(length: int, says: str) -> None:
    with pytest.raises(ValueError, match=f"length={length} is .*{says}"):
        prose_needles.question(0, length, words)
