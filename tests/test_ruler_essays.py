"""RULER's needles in essays: the published text, the essays' own words, and where needles stand."""

import re

import pytest
import ruler_sources
from ruler_samples import ESSAY_TASKS, make

from star_jax.eval.ruler.essays import Essays

WORDS = ruler_sources.essays()["text"].split()
HIDDEN = {  # needles, and those asked for
    "niah_single_2": (1, 1), "niah_single_3": (1, 1), "niah_multikey_1": (4, 1),
    "niah_multivalue": (4, 4), "niah_multiquery": (4, 4),
}  # fmt: skip
NEEDLE = re.compile(r"One of the special magic (number|uuid)s for ([\w '-]+?) is: ([\w-]+)\.")


@pytest.mark.parametrize("mode", ["exact", "ruler", "star"])
@pytest.mark.parametrize("task", ESSAY_TASKS)
def test_the_text_is_the_benchmarks(task: str, mode: str) -> None:
    """Appendix C of the reference document, and its section 2.2."""
    hidden, asked = HIDDEN[task]
    for index in range(5):
        sample = make(task, mode=mode, index=index, length=2048)
        found = NEEDLE.findall(sample.context)
        assert len(found) == hidden
        kind = "uuid" if task == "niah_single_3" else "number"
        assert {found_kind for found_kind, _, _ in found} == {kind}
        values = {value: key for _, key, value in found}
        assert len(values) == hidden
        assert len(sample.outputs) == asked
        keys = list(dict.fromkeys(values[value] for value in sample.outputs))
        assert len(set(values.values())) == {"niah_multivalue": 1}.get(task, hidden)
        head = f"A special magic {kind} is hidden within the following text. "
        end = f"the {kind} afterwards.\n"
        query = (
            f"What is the special magic {kind} for {keys[0]} mentioned in the provided text? "
            f"The special magic {kind} for {keys[0]} mentioned in the provided text is"
        )
        if asked > 1:
            shown = keys[0]
            if len(keys) == 4:
                shown = f"{keys[0]}, {keys[1]}, {keys[2]}, and {keys[3]}"
            head = f"Some special magic {kind}s are hidden within the following text. "
            end = f"the {kind}s afterwards.\n"
            query = (
                f"What are all the special magic {kind}s for {shown} mentioned in the provided "
                f"text? The special magic {kind}s for {shown} mentioned in the provided text are"
            )
        head += f"Make sure to memorize it. I will quiz you about {end}"
        assert sample.query == query
        assert sample.context.startswith(head)
        assert sample.context.endswith("\n")
        body = NEEDLE.sub("", sample.context.removeprefix(head)).split()
        assert body == WORDS[: len(body)]


@pytest.mark.parametrize("mode", ["exact", "ruler", "star"])
@pytest.mark.parametrize("task", ESSAY_TASKS)
def test_needles_are_the_sentences_of_the_answers_in_their_order(task: str, mode: str) -> None:
    for index in range(10):
        sample = make(task, mode=mode, index=index, wrap=("<user>", "<model>"))
        assert len(sample.needles) == len(sample.outputs)
        for (start, end), value in zip(sample.needles, sample.outputs, strict=True):
            match = NEEDLE.fullmatch(sample.context[start:end])
            assert match
            assert match[3] == value


@pytest.mark.parametrize("task", ESSAY_TASKS)
def test_needles_stand_between_sentences(task: str) -> None:
    for index in range(10):
        body = make(task, index=index).context.partition("\n")[2]
        for match in NEEDLE.finditer(body):
            before = NEEDLE.sub("", body[: match.start()]).split()
            assert not before or re.search(r"[.?][\"']?$", before[-1])


@pytest.mark.parametrize("mode", ["exact", "ruler"])
def test_a_short_corpus_is_repeated(mode: str) -> None:
    sample = make("niah_single_2", mode=mode, length=9000)
    body = NEEDLE.sub("", sample.context.partition("\n")[2]).split()
    assert len(body) > 2.5 * len(WORDS)
    assert body == (WORDS * 4)[: len(body)]
    assert sample.length is not None
    assert 8000 < sample.length <= 9000


def test_a_short_corpus_ends_where_star_attentions_scripts_end() -> None:
    sample = make("niah_single_2", mode="star", length=9000)
    assert NEEDLE.sub("", sample.context.partition("\n")[2]).split() == WORDS


def test_depths_of_exact_are_all_and_those_of_the_scripts_forty() -> None:
    def depths(mode: str) -> set[int]:
        found = set()
        for index in range(60):
            sample = make("niah_single_2", mode=mode, index=index, length=2048)
            found.add(sample.needles[0][0])
        return found

    assert len(depths("exact")) > 40
    assert 20 < len(depths("ruler")) <= 40


def test_the_scripts_shuffle_needles_alike_in_all_samples() -> None:
    """The keys are drawn in one order and stand in another one, given by the seed."""

    def order(mode: str, index: int) -> list[str]:
        sample = make("niah_multivalue", mode=mode, index=index, seed=7)
        found = [value for _, _, value in NEEDLE.findall(sample.context)]
        return [str(found.index(value)) for value in sample.outputs]

    assert len({"".join(order("ruler", i)) for i in range(10)}) == 1
    assert len({"".join(order("exact", i)) for i in range(10)}) > 3


def test_sentences_by_the_rule() -> None:
    essays = Essays('One two.  Three?\n"Four five!" six. Seven (eight.) Nine')
    starts = [essays.start(i) for i in range(essays.sentences(9) + 1)]
    assert starts == [0, 2, 3, 6, 8, 9]
    assert [essays.sentences(n) for n in range(10)] == [0, 1, 1, 2, 3, 3, 3, 4, 4, 5]
    assert essays.sentences(9 + 3) == 5 + 2
    assert essays.start(5 + 2) == 9 + 3
    assert essays.text(7, 11) == "(eight.) Nine One two."
    assert essays.text(3, 3) == ""
    with pytest.raises(ValueError, match="no words"):
        Essays(" \n")
