"""BABILong's form, generated: a reader who replays the text finds each answer, and where."""

import pathlib
import re
from typing import Any

import pytest
from test_tokenizer import load, save

from star_jax.eval.babilong import prose, worlds
from star_jax.eval.babilong.generate import TASKS, generate
from star_jax.eval.babilong.metric import COMPARE_ANSWERS
from star_jax.eval.fitting import Frame
from star_jax.runs.sample import Sample

NAMES = "Daniel|John|Mary|Sandra|Bill|Fred|Jeff"
FACT = re.compile(rf"(?:{NAMES}) [^.]*\.|The \w+ is (?:north|south|east|west) of the \w+\.")
GIVE = re.compile(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)")
SIDES = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}


@pytest.fixture(name="frame", scope="module")
def _frame(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    save(directory, adds="<s> $A")
    tokenizer = load(directory)

    def make(length: int, template: str = "base") -> Frame:
        return Frame.make(template, tokenizer, length=length, max_new_tokens=20)

    return make


def facts_of(sample: Sample) -> list[str]:
    text = sample.context.split("<context>\n")[1].split("\n</context>")[0]
    return FACT.findall(text)


def read(facts: list[str], question: str) -> str:
    """Replays what happens, and answers from what came out; knows nothing of how it was made."""
    if found := re.fullmatch(r"Where is (?:the )?(\w+)\?", question):
        return _history(facts)[found[1]][-1]
    if found := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
        way = _history(facts)[found[1]]
        return way[len(way) - 1 - way[::-1].index(found[2]) - 1]
    if " of the " in question or question.endswith(" of?"):
        return _beside(facts, question)
    gifts = [found.groups() for fact in facts if (found := GIVE.match(fact))]
    for pattern, known, at in (
        (r"Who gave the (\w+)\?", (1,), 0),
        (r"Who received the (\w+)\?", (1,), 2),
        (r"Who gave the (\w+) to (\w+)\?", (1, 2), 0),
        (r"Who did (\w+) give the (\w+) to\?", (0, 1), 2),
        (r"What did (\w+) give to (\w+)\?", (0, 2), 1),
    ):
        if found := re.fullmatch(pattern, question):
            alike = [g for g in gifts if tuple(g[i] for i in known) == found.groups()]
            assert len({g[at] for g in alike}) == 1
            return alike[-1][at]
    raise AssertionError(question)


def _history(facts: list[str]) -> dict[str, list[str]]:
    """Of all people and things, the places where they have been, each time that they moved."""
    place: dict[str, str] = {}
    holder: dict[str, str] = {}
    way: dict[str, list[str]] = {}
    for fact in facts:
        who = fact.split()[0]
        if found := re.search(r"(?:moved|went|went back|journeyed|travelled) to the (\w+)", fact):
            place[who] = found[1]
        elif found := re.search(r"(?:picked up|took|got|grabbed) the (\w+)", fact):
            holder[found[1]] = who
        else:
            found = re.search(r"(?:put down|dropped|left|discarded) the (\w+)", fact)
            assert found, fact
            holder.pop(found[1], None)
            place[found[1]] = place[who]
        place |= {thing: place[person] for thing, person in holder.items() if person in place}
        for each, at in place.items():
            if way.setdefault(each, [at])[-1] != at:
                way[each].append(at)
    return way


def _beside(facts: list[str], question: str) -> str:
    """Places as points of a map; asks who lies a step to that side."""
    steps = {}
    for fact in facts:
        found = re.fullmatch(r"The (\w+) is (\w+) of the (\w+)\.", fact)
        assert found
        a, side, b = found.groups()
        x, y = SIDES[side]
        steps[b, x, y], steps[a, -x, -y] = a, b
    if found := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
        return steps[found[2], *SIDES[found[1]]]
    found = re.fullmatch(r"What is the (\w+) (\w+) of\?", question)
    assert found
    x, y = SIDES[found[2]]
    return steps[found[1], -x, -y]


def test_things_are_picked_up_where_they_lie_and_put_down_by_who_has_them(frame: Any) -> None:
    for index in range(40):
        place: dict[str, str] = {}
        holder: dict[str, str] = {}
        for fact in facts_of(generate("qa2", index, seed=2, frame=frame(6000))):
            who, what = fact.split()[0], re.sub(" there", "", fact[:-1]).split()[-1]
            if " to the " in fact:
                assert place.get(who) != what
                place |= dict.fromkeys([who, *(t for t, p in holder.items() if p == who)], what)
            elif what in holder:
                assert holder.pop(what) == who
            else:
                assert place.setdefault(what, place[who]) == place[who]
                holder[what] = who


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_reader_is_right_and_an_empty_one_is_not(task: str, frame: Any) -> None:
    answers, counts = set(), set()
    for index in range(40):
        sample = generate(task, index, seed=1, frame=frame(4096))
        question = sample.query.removeprefix("Question: ")
        assert sample.facts == {"task": task, "question": question}
        facts = facts_of(sample)
        answer = read(facts, question)
        assert (answer,) == sample.outputs
        assert COMPARE_ANSWERS.score(answer, sample) == 1
        assert COMPARE_ANSWERS.score("", sample) == 0
        # The needles are facts of the text in their order, and enough for the answer.
        needles = [sample.context[a:b] for a, b in sample.needles]
        assert [fact for fact in facts if fact in needles] and set(needles) <= set(facts)
        assert list(sample.needles) == sorted(sample.needles)
        assert read(needles, question) == answer
        answers.add(answer)
        counts.add(len(facts))
        assert worlds.WORLDS[task].least <= len(facts) <= worlds.WORLDS[task].most
    assert len(answers) > 3
    assert len(counts) > 2 or task == "qa4"


@pytest.mark.parametrize("template", ["base", "llama3"])
@pytest.mark.parametrize("task", TASKS)
def test_length_is_kept_and_used(task: str, template: str, frame: Any) -> None:
    for length in (1500, 6000):
        made = frame(length, template)
        sample = generate(task, 3, seed=0, frame=made)
        tokens = len(made.tokenizer.encode_context(sample.context))
        tokens += len(made.tokenizer.encode_query(sample.query)) + 20
        assert tokens == sample.length
        assert length - 130 < tokens <= length  # a sentence of prose has at most that


def test_samples_follow_from_their_arguments_alone(frame: Any) -> None:
    first = generate("qa2", 5, seed=0, frame=frame(3000))
    assert first == generate("qa2", 5, seed=0, frame=frame(3000))
    for index, seed, length in ((6, 0, 3000), (5, 1, 3000), (5, 0, 3100)):
        assert first.context != generate("qa2", index, seed=seed, frame=frame(length)).context


def test_answers_stand_at_every_depth(frame: Any) -> None:
    depths = []
    for index in range(60):
        sample = generate("qa4", index, seed=0, frame=frame(4000))
        begin = sample.context.index("<context>")
        depths.append((sample.needles[0][0] - begin) / (len(sample.context) - begin))
    assert min(depths) < 0.15 and max(depths) > 0.85


def test_prose_says_nothing_of_the_worlds() -> None:
    words = {
        w
        for part in (prose._WHEN, prose._WHO, prose._DID, prose._WHAT, prose._HOW)
        for text in part
        for w in re.findall(r"\w+", text.lower())
    }
    of_worlds = {*worlds.PLACES, *worlds.THINGS, *(n.lower() for n in NAMES.split("|"))}
    assert not words & of_worlds
    assert not words & {"gave", "handed", "passed", "north", "south", "east", "west"}


def test_a_length_that_holds_no_story_is_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match="length=300 is too short: with 0 sentences of prose"):
        generate("qa1", 0, seed=0, frame=frame(300))


def test_prompt_is_cut_where_the_reference_cuts(frame: Any, tmp_path: pathlib.Path) -> None:
    sample = generate("qa1", 0, seed=0, frame=frame(2000, "llama3"))
    assert sample.context.startswith("<|begin_of_text|><|start_header_id|>system")
    assert sample.context.endswith("\n</context>\n\n")
    assert sample.query.startswith("Question: Where is ")
    assert sample.query.endswith("?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
