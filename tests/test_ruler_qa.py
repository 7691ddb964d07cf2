"""RULER's questions about documents: text, order, and where the answers stand."""

import re

import pytest
import ruler_sources
from ruler_samples import QA_TASKS, make

from star_jax.eval.ruler import questions
from star_jax.eval.ruler.sources import Sources
from star_jax.runs.sample import Sample

INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\n"
)
HEAD = f"{INSTRUCTION}The following are given documents.\n\n"
PARAGRAPHS = [p for article in ruler_sources.squad()["data"] for p in article["paragraphs"]]
GIVEN = [
    [f"{title}\n{''.join(lines)}" for title, lines in one["context"]]
    for one in ruler_sources.hotpotqa()
]


def documents(sample: Sample) -> list[str]:
    assert sample.context.startswith(HEAD)
    assert sample.context.endswith("\n\n")
    parts = re.split(r"(?:^|\n\n)Document (\d+):\n", sample.context[len(HEAD) : -2])
    assert parts[0] == ""
    assert parts[1::2] == [str(i + 1) for i in range(len(parts) // 2)]
    return parts[2::2]


def own(task: str, index: int) -> list[str]:
    """The documents that must be there."""
    return [PARAGRAPHS[index]["context"]] if task == "qa_1" else GIVEN[index]


@pytest.mark.parametrize("mode", ["exact", "ruler", "star"])
@pytest.mark.parametrize("task", QA_TASKS)
def test_the_text_is_the_benchmarks(task: str, mode: str) -> None:
    known = {p["context"] for p in PARAGRAPHS} | {text for row in GIVEN for text in row}
    for index in range(8):
        sample = make(task, mode=mode, index=index, length=2048)
        found = documents(sample)
        assert set(found) <= known
        assert set(own(task, index)) <= set(found)
        if task == "qa_1":
            asked = PARAGRAPHS[index]["qas"][1]
            question, outputs = asked["question"], tuple(a["text"] for a in asked["answers"])
        else:
            line = ruler_sources.hotpotqa()[index]
            question, outputs = line["question"], (line["answer"],)
        assert sample.query == f"{INSTRUCTION}Question: {question} Answer:"
        assert sample.outputs == outputs


@pytest.mark.parametrize("mode", ["exact", "ruler", "star"])
def test_the_article_comes_before_others(mode: str) -> None:
    """Four paragraphs are an article: all are there, and with few documents nothing else is."""
    article = {p["context"] for p in PARAGRAPHS[4:8]}
    sample = make("qa_1", mode=mode, index=5, length=2048)
    assert article < set(documents(sample))
    if mode == "exact":
        assert set(documents(make("qa_1", index=5, length=400))) <= article


@pytest.mark.parametrize("mode", ["exact", "ruler", "star"])
@pytest.mark.parametrize("task", QA_TASKS)
def test_needles_are_the_answers(task: str, mode: str) -> None:
    for index in range(8):
        sample = make(task, mode=mode, index=index, length=1500, wrap=("<user>", "<model>"))
        assert sample.needles
        for start, end in sample.needles:
            text = sample.context[start:end]
            if sample.outputs == ("yes",):
                assert text in own(task, index)
                assert sample.context[:start].endswith(":\n")
            else:
                assert text == sample.outputs[0]


def test_yes_is_read_from_both_paragraphs() -> None:
    sample = make("qa_2", index=3)
    assert sample.outputs == ("yes",)
    assert len(sample.needles) == 2


@pytest.mark.parametrize("task", QA_TASKS)
def test_places_vary_in_exact_and_not_in_the_scripts(task: str) -> None:
    def places(mode: str) -> set[tuple[int, int]]:
        found = set()
        for index in range(30):
            sample = make(task, mode=mode, index=index, length=2048)
            texts = documents(sample)
            first = texts.index(own(task, index)[0])
            found.add((first, len(texts)))
        return found

    assert len({place for place, _ in places("exact")}) > 8
    by_count: dict[int, set[int]] = {}
    for place, count in places("ruler"):
        by_count.setdefault(count, set()).add(place)
    assert all(len(found) == 1 for found in by_count.values())


@pytest.mark.parametrize("task", QA_TASKS)
def test_a_short_corpus_is_repeated_and_the_questions_own_are_not(task: str) -> None:
    length = 8000 if task == "qa_1" else 25000
    found = documents(make(task, length=length, index=1))
    counts = [found.count(text) for text in set(found)]
    assert max(counts) > 1
    assert [found.count(text) for text in own(task, 1)] == [1] * len(own(task, 1))


def test_scripts_repeat_all_documents_or_five_times() -> None:
    whole = len(PARAGRAPHS)
    many = documents(make("qa_1", mode="ruler", length=16000))
    assert len(many) > 5 * whole
    assert set(many) == {p["context"] for p in PARAGRAPHS}
    assert len(documents(make("qa_1", mode="star", length=16000))) == 5 * whole


def test_too_few_documents() -> None:
    alone = questions.squad(ruler_sources.squad(articles=1))
    few = Sources(squad=alone)
    with pytest.raises(ValueError, match="no documents beside"):
        make("qa_1", sources=few)
    with pytest.raises(ValueError, match="squad has 4 questions with answers, and sample 5 is"):
        make("qa_1", sources=few, index=4)


def test_overlapping_annotations_are_one_place() -> None:
    fields = ruler_sources.squad(articles=1)
    asked = fields["data"][0]["paragraphs"][0]["qas"][1]
    first = asked["answers"][0]
    (spans,) = questions.squad(fields).questions[0].answers.values()
    assert spans == [(first["answer_start"], first["answer_start"] + len(first["text"]))]


def test_an_answer_is_found_as_a_word_of_its_own() -> None:
    lines = ruler_sources.hotpotqa(1)
    lines[0]["answer"] = "art"
    lines[0]["supporting_facts"] = [["Art", 0]]
    lines[0]["context"][0] = ["Art", ["A party has a start, and art."]]
    (spans,) = questions.hotpotqa(lines).questions[0].answers.values()
    assert spans == [(29, 32)]
