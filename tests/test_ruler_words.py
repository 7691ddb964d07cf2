"""RULER's tasks without needles: variable tracking, common words and frequent words."""

import math
import re

import pytest
from ruler_samples import make, ranked, words

from star_jax.eval.ruler import words as ruler_words
from star_jax.runs import metrics
from star_jax.runs.sample import Sample

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
WORD_TASKS = ["cwe", "fwe"]


def vt_parts(sample: Sample) -> tuple[list[str], list[str]]:
    """The lines of the example and of the question's context, their first two apart."""
    head = "Memorize and track the chain(s) of variable assignment hidden in the following text."
    lines = sample.context.split("\n")
    starts = [i for i, line in enumerate(lines) if line == head]
    assert starts[0] == 0 and len(starts) == 2
    assert lines[1] == lines[starts[1] + 1] == lines[starts[1] - 1] == lines[-1] == ""
    return lines[2 : starts[1] - 1], lines[starts[1] + 2 : -1]


def chain(lines: list[str], letters: int) -> tuple[list[str], str]:
    """The names of a chain, and its value; the lines must be the chain and noise."""
    found = [line for line in lines if line != NOISE]
    first = re.fullmatch(rf"VAR ([A-Z]{{{letters}}}) = ([1-9]\d{{4}})", found[0])
    assert first
    names, value = [first[1]], first[2]
    for line in found[1:]:
        link = re.fullmatch(rf"VAR ([A-Z]{{{letters}}}) = VAR {names[-1]}", line)
        assert link
        names.append(link[1])
    return names, value


@pytest.mark.parametrize("length", [512, 1024, 4096])
def test_vt_text_is_the_benchmarks(length: int) -> None:
    for index in range(10):
        sample = make("vt", length=length, index=index, max_new_tokens=30)
        (*example, solved), lines = vt_parts(sample)
        names, value = chain(lines, 5)
        assert tuple(names) == sample.outputs
        assert len(set(names)) == 5
        text = (
            "Question: Find all variables that are assigned the value {value} in the text above. "
            "Answer: According to the chain(s) of variable assignment in the text above, 5 "
            "variables are assigned the value {value}, they are: "
        )
        assert sample.query == text.format(value=value)
        shown, shown_value = chain(example, 3)
        assert solved == text.format(value=shown_value) + " ".join(shown)
        assert len(set(shown)) == 5
        assert shown_value != value
        assert not any(name in other for name in shown for other in names)


def test_vt_example_has_rulers_size_where_there_is_room() -> None:
    def tokens(length: int) -> tuple[int, int]:
        sample = make("vt", length=length, max_new_tokens=30)
        example, _ = vt_parts(sample)
        return example.count(NOISE), words("\n".join(example))

    for length in (2000, 4096):
        noise, used = tokens(length)
        assert noise % 5 == 0
        assert 500 - 5 * 26 - 20 < used <= 500  # its first two lines and its last are not counted
    assert tokens(512)[1] < 200
    assert tokens(512)[0] < tokens(1024)[0] < tokens(1400)[0]


def test_vt_chain_is_whole_in_order_and_moves() -> None:
    first, last = [], []
    for index in range(30):
        lines = vt_parts(make("vt", index=index, max_new_tokens=30, length=2048))[1]
        at = [i / len(lines) for i, line in enumerate(lines) if line != NOISE]
        assert len(at) == 5
        first.append(at[0])
        last.append(at[-1])
    assert min(first) < 0.05
    assert max(first) > 0.2
    assert max(last) > 0.95
    assert min(last) < 0.7


CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often."
)
CWE_QUERY = (
    "Question: What are the 10 most common words in the above list? "
    "Answer: The top 10 words that appear most often in the list are:"
)


def numbered(line: str) -> list[str]:
    """The words of a line `1. one 2. two ...`."""
    found = re.findall(r"(\d+)\. (\S+)(?: |$)", line)
    assert " ".join(f"{i}. {word}" for i, word in found) == line
    assert [int(i) for i, _ in found] == list(range(1, len(found) + 1))
    return [word for _, word in found]


@pytest.mark.parametrize(
    ("length", "often", "seldom", "example"),
    [(4096, 30, 3, (40, 10, 3)), (2048, 6, 1, (20, 3, 1)), (2047, 3, 1, None),
     (1024, 3, 1, None), (512, 3, 1, None)],
)  # fmt: skip
def test_cwe_text_is_the_benchmarks(
    length: int, often: int, seldom: int, example: tuple[int, int, int] | None
) -> None:
    for index in range(5):
        sample = make("cwe", length=length, index=index, max_new_tokens=120)
        assert sample.query == CWE_QUERY
        lines = sample.context.split("\n")
        body = numbered(lines[-2])
        counts = [count for _, count in ranked("cwe", sample)]
        assert len(counts) >= 20
        assert counts == [often] * 10 + [seldom] * (len(counts) - 10)
        assert {word for word, _ in ranked("cwe", sample)[:10]} == set(sample.outputs)
        if example is None:
            assert lines == [CWE, lines[-2], ""]
            continue
        assert lines == [CWE, lines[1], lines[2], CWE, lines[-2], ""]
        shown, solved = numbered(lines[1]), numbered(lines[2].removeprefix(f"{CWE_QUERY} "))
        assert not set(shown) & set(body)
        distinct, many, few = example
        times = {word: shown.count(word) for word in shown}
        assert len(times) == distinct
        assert [times[word] for word in solved] == [many] * 10
        assert sorted(times.values()) == [few] * (distinct - 10) + [many] * 10


@pytest.mark.parametrize("length", [512, 4096, 16384])
def test_cwe_no_other_word_holds_a_common_one(length: int) -> None:
    for index in range(10):
        sample = make("cwe", length=length, index=index, max_new_tokens=120)
        text = sample.context.lower().split() + sample.query.lower().split()
        for word in sample.outputs:
            assert {other for other in text if word.lower() in other} == {word.lower()}


def test_cwe_goes_on_with_made_up_words() -> None:
    """Wonderwords has some 8000: a list of 200K tokens needs more."""
    sample = make("cwe", length=200_000, max_new_tokens=120)
    assert sample.length is not None and sample.length > 199_900
    counts = ranked("cwe", sample)
    assert len(counts) > 9000
    assert [count for _, count in counts] == [30] * 10 + [3] * (len(counts) - 10)
    assert len({word.lower() for word, _ in counts}) == len(counts)
    made_up = [word for word, _ in counts if word not in ruler_words.single()]
    assert len(made_up) > 1000
    assert all(re.fullmatch("([bdfgklmnprstvz][aeiou]){3,4}", word) for word in made_up)
    assert sample == make("cwe", length=200_000, max_new_tokens=120)


@pytest.mark.parametrize("length", [512, 1024, 4096, 16384])
def test_fwe_text_is_the_benchmarks(length: int) -> None:
    for index in range(5):
        sample = make("fwe", length=length, index=index, max_new_tokens=50)
        head = (
            "Read the following coded text and track the frequency of each coded word. "
            "Find the three most frequently appeared coded words. "
        )
        assert sample.context.startswith(head)
        assert sample.context.endswith("\n")
        assert sample.query == (
            "Question: Do not provide any explanation. Please ignore the dots '....'. What are "
            "the three most frequently appeared words in the above coded text? Answer: According "
            "to the coded text above, the three most frequently appeared words are:"
        )
        body = sample.context.removeprefix(head).removesuffix("\n").split(" ")
        assert all(re.fullmatch(r"[a-z]{6}|\.\.\.", word) for word in body)
        counts = ranked("fwe", sample)
        assert len(counts) < length // 50
        assert tuple(word for word, _ in counts[:3]) == sample.outputs
        assert counts[0][1] > counts[1][1] > counts[2][1] > counts[3][1]
        assert -0.01 < body.count("...") / len(body) - 6 / math.pi**2 < 0.06  # no tail: more
        for rank, (_, count) in enumerate(counts, 2):
            assert abs(count - body.count("...") / rank**2) <= 1


@pytest.mark.parametrize("task", WORD_TASKS)
@pytest.mark.parametrize("length", [512, 4096])
def test_the_next_most_frequent_words_score_zero(task: str, length: int) -> None:
    for index in range(10):
        sample = make(task, length=length, index=index, max_new_tokens=120)
        asked = len(sample.outputs)
        wrong = [word for word, _ in ranked(task, sample)[asked:]]
        assert len(wrong) >= 3
        assert metrics.string_match_all(" ".join(wrong), sample.outputs) == 0
