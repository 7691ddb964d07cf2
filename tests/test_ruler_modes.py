"""The published modes: the prompts of the reference document's Appendix C, and their lengths."""

import collections
import random
import re
from typing import Any

import pytest
from ruler_samples import LINE_TASKS, TASKS, make, read, words

from star_jax.eval import ruler
from star_jax.eval.ruler import words as ruler_words
from star_jax.eval.ruler.draft import Draft, Steps
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt

PUBLISHED = ["ruler", "star"]
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
HEAD, TAIL = ruler.TEMPLATES["llama3"]


def published(task: str, mode: str, **changes: Any) -> Sample:
    changes = {"max_new_tokens": ruler.MODES[mode].tasks[task].max_new_tokens} | changes
    return make(task, mode=mode, **changes)


@pytest.mark.parametrize("mode", PUBLISHED)
@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_reader_scores_one_and_an_empty_one_zero(task: str, mode: str) -> None:
    metric = ruler.MODES[mode].tasks[task].metric
    scores = []
    for index in range(8):
        sample = published(task, mode, index=index, length=4096)
        scores.append(metric.score(f" {read(task, sample)}.\n", sample))
        assert metric.score("", sample) == 0
    assert scores == [1] * 8


@pytest.mark.parametrize("mode", PUBLISHED)
@pytest.mark.parametrize("task", TASKS)
def test_samples_reproduce_and_differ(task: str, mode: str) -> None:
    sample = published(task, mode, index=3, length=2048)
    assert sample == published(task, mode, index=3, length=2048)
    others = [published(task, mode, index=4, length=2048), published(task, mode, length=2048)]
    assert len({one.context for one in [sample, *others]}) == 3
    assert sample.context != published(task, mode, index=3, length=2048, seed=1).context


@pytest.mark.parametrize("mode", PUBLISHED)
@pytest.mark.parametrize("task", LINE_TASKS)
def test_lines_are_the_same_text_in_all_modes(task: str, mode: str) -> None:
    """But for how many there are: theirs come in steps, or one size does for all samples."""
    ours = make(task, length=2048, index=2)
    theirs = make(task, mode=mode, length=2048, index=2)
    assert (theirs.query, theirs.outputs) == (ours.query, ours.outputs)
    one, two = (set(sample.context.split("\n")) for sample in (ours, theirs))
    assert one <= two or two <= one
    lines = len(theirs.context.split("\n")) - 3
    if mode == "star":
        assert lines % 5 == 0


def test_star_damages_the_chat_template_of_single_needles_alone() -> None:
    single = {"niah_single_1", "niah_single_2", "niah_single_3"}
    single |= {"niah_multikey_1", "niah_multikey_2", "niah_multikey_3"}
    for task in TASKS:
        for mode in ("exact", "star"):
            sample = published(task, mode, length=4096, wrap=(HEAD, TAIL))
            verb = "is" if mode == "star" and task in single else "are"
            assert sample.context.startswith(HEAD.replace("You are a", f"You {verb} a"))
            for start, end in sample.needles:
                assert 0 < start < end < len(sample.context)


def test_damage_leaves_who_wrote_what() -> None:
    wrap = (Prompt.template(HEAD), Prompt.template(TAIL))
    sample = published("niah_single_1", "star", wrap=wrap)
    assert isinstance(sample.context, Prompt)
    assert sample.context.parts[0] == (HEAD.replace("are", "is"), True)
    assert [by_template for _, by_template in sample.context.parts] == [True, False]


VT_HEAD = "Memorize and track the chain(s) of variable assignment hidden in the following text."


def vt_query(value: str, verb: str) -> tuple[str, str]:
    return (
        f"Question: Find all variables that are assigned the value {value} in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables "
        f"are {verb} the value {value}, they are: ",
    )


def test_vt_of_star_in_its_chat_template() -> None:
    """Its example is one line, and has lost the last word of its question."""
    sample = published("vt", "star", length=4096, wrap=(HEAD, TAIL))
    match = re.fullmatch(
        re.escape(f"{HEAD} {VT_HEAD} ")
        + r"(?P<shown>.*) Question: Find all variables that are assigned the value (?P<value>\d+) "
        + r"in the text Answer: According to the chain\(s\) of variable assignment in the text "
        + r"above, 5 variables are assgined the value (?P=value), they are:  (?P<names>[A-Z ]+)"
        + re.escape(f"\n\n\n\n{VT_HEAD}\n\n")
        + r"(?P<body>.*)\n",
        sample.context,
        re.DOTALL,
    )
    assert match
    chain_in_lines(match["shown"] + "\n", match["names"].split(), match["value"])
    asked = re.search(r"value (\d+)", sample.query)
    assert asked
    question, prefix = vt_query(asked[1], "assgined")
    assert sample.query == question + TAIL + prefix
    chain_in_lines(match["body"] + "\n", list(sample.outputs), asked[1])


def chain_in_lines(text: str, names: list[str], value: str) -> None:
    """Noise, each with its line's end, and links, all with a space between two."""
    givers = [value, *(f"VAR {name}" for name in names[:-1])]
    links = [f"VAR {a} = {b}{' ' * (b != value)}" for a, b in zip(names, givers, strict=True)]
    pattern = "|".join(map(re.escape, [f"{NOISE}\n", *links]))
    pieces = re.findall(pattern, text)
    assert " ".join(pieces).rstrip("\n ") == text.rstrip("\n ")
    assert [piece for piece in pieces if piece.startswith("VAR")] == links


@pytest.mark.parametrize("wrap", [("", ""), (HEAD, TAIL)])
def test_vt_of_star_without_and_of_ruler_with_a_template_has_a_whole_example(
    wrap: tuple[str, str],
) -> None:
    mode, verb = ("ruler", "assigned") if wrap[0] else ("star", "assgined")
    samples = [published("vt", mode, length=4096, index=i, wrap=wrap) for i in range(6)]
    shapes, values, all_names = set(), set(), set()
    for sample in samples:
        text = sample.context.removeprefix(wrap[0] + ("" if mode == "ruler" else " "))
        example, rest = text.removeprefix(f"{VT_HEAD}\n\n").split(f"{VT_HEAD}\n\n")
        lines, _, solved = example.partition("\nQuestion")
        value = re.findall(r"VAR \w+ = (\d+)", lines)[0]
        names = re.findall(r"VAR (\w+) =", lines)
        assert len(set(names)) == 5
        question, prefix = vt_query(value, verb)
        end = "\n\n" if mode == "ruler" else "\n\n\n\n"
        assert "Question" + solved == f"{question}{prefix} {' '.join(names)}{end}"
        shapes.add(re.sub(r"[A-Z]{3}\b|\d{5}", "", lines))
        values.add(value)
        all_names.add(tuple(names))
        if mode == "ruler":
            found = [line for line in rest.split("\n") if line.startswith("VAR")]
            assert [line.endswith(" ") for line in found] == [False, True, True, True, True]
            assert set(rest.split("\n")) - set(found) == {NOISE, ""}
            assert not re.search(r"VAR .*\nVAR", rest)
        # To one line, or to five; besides, Star Attention's scripts count the answer's 30 tokens.
        assert 500 - (5 * 26 + 60 if mode == "star" else 26 + 10) < words(example) <= 500 + 10
    assert len(shapes) == 1
    assert len(all_names) == 6
    assert len(values) == (6 if mode == "ruler" else 1)


CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
CWE_QUESTION = "Question: What are the 10 most common words in the above list?"
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"


@pytest.mark.parametrize("mode", PUBLISHED)
@pytest.mark.parametrize("wrap", [("", ""), (HEAD, TAIL)])
def test_cwe_has_the_whole_template_in_its_example(mode: str, wrap: tuple[str, str]) -> None:
    before, between = wrap
    sample = published("cwe", mode, length=4096, wrap=wrap)
    space = " " if mode == "ruler" else ""
    match = re.fullmatch(
        re.escape(f"{before}{CWE}")
        + r"(?P<shown>.*)"
        + re.escape(f"\n{CWE_QUESTION}{between}{CWE_PREFIX}{space}")
        + r"(?P<solved>1\. .*)\n"
        + re.escape(f"{before}{CWE}")
        + r"(?P<body>.*)\n",
        sample.context,
    )
    assert match
    assert sample.query == f"{CWE_QUESTION}{between}{CWE_PREFIX}"
    counts = collections.Counter(numbered(match["shown"]))
    assert sorted(counts.values()) == [3] * 30 + [10] * 10
    assert {word for word, n in counts.items() if n == 10} == set(numbered(match["solved"]))
    counts = collections.Counter(numbered(match["body"]))
    assert {word for word, n in counts.items() if n == 30} == set(sample.outputs)
    assert set(counts.values()) == {30, 3}
    if mode == "star":
        assert len(counts) % 10 == 0


def numbered(line: str) -> list[str]:
    found = re.findall(r"(\d+)\. (.+?)(?= \d+\. |$)", line)
    assert " ".join(f"{i}. {word}" for i, word in found) == line
    return [word for _, word in found]


def test_a_server_that_wraps_prompts_does_not_wrap_examples() -> None:
    sample = published("cwe", "ruler", length=4096, wrap=(HEAD, TAIL), wraps_examples=False)
    assert sample.context.count(HEAD) == 1
    assert f"{CWE_QUESTION}{CWE_PREFIX} 1. " in sample.context


def test_cwe_below_4096_tokens() -> None:
    sample = published("cwe", "ruler", length=2048)
    lines = sample.context.split("\n")
    assert sorted(collections.Counter(numbered(lines[1])).values()) == [1] * 10 + [3] * 10
    assert set(collections.Counter(numbered(lines[-2])).values()) == {6, 1}


def test_cwe_beyond_wonderwords_is_refused_or_short() -> None:
    """RULER goes on with a list that is not shipped; Star Attention's scripts end there."""
    every = len(ruler_words.every())
    assert every == 8166  # with wonderwords 3.0.1, as the reference document counts
    with pytest.raises(ValueError, match="length=200000: RULER's scripts go on with a list"):
        published("cwe", "ruler", length=200_000)
    sample = published("cwe", "star", length=200_000)
    assert len(set(numbered(sample.context.split("\n")[-2]))) == every


def test_frequent_words_are_shuffled_alike_and_star_fits_the_context_alone() -> None:
    for mode in PUBLISHED:
        shapes = set()
        for index in range(4):
            sample = published("fwe", mode, index=index, length=4096)
            coded = sample.context.rpartition("coded words. ")[2].split()
            rank = {word: i for i, (word, _) in enumerate(collections.Counter(coded).most_common())}
            shapes.add((len(coded), tuple(i for i, word in enumerate(coded) if word == "...")))
            assert [rank[word] for word in sample.outputs] == [1, 2, 3]
            alone = words(sample.context)
            assert alone <= 4096 - (0 if mode == "star" else 50 + words(sample.query))
            assert 4096 - alone < 2 * 4096 / 32 + 150
            assert sample.length is not None
            assert (sample.length > 4096) == (mode == "star")
        assert len(shapes) == 1


def test_answers_of_star_may_have_120_coded_words() -> None:
    tokens = {
        m: {t: k.max_new_tokens for t, k in ruler.MODES[m].tasks.items()} for m in ruler.MODES
    }
    assert tokens["ruler"] == tokens["exact"]
    assert tokens["star"] == tokens["exact"] | {"fwe": 120}


@pytest.mark.parametrize("mode", PUBLISHED)
@pytest.mark.parametrize("task", sorted(set(TASKS) - {"fwe"}))
def test_one_size_does_for_all_and_samples_go_back_by_steps(task: str, mode: str) -> None:
    for index in range(5):
        sample = published(task, mode, index=index, length=8192)
        assert sample.length is not None
        tokens = ruler.MODES[mode].tasks[task].max_new_tokens
        assert sample.length == words(sample.context) + words(sample.query) + tokens
        assert sample.length <= 8192
        if not (task.startswith("qa") or (mode == "star" and task not in LINE_TASKS)):
            assert sample.length > 0.85 * 8192


def test_steps_find_what_the_scripts_loops_find() -> None:
    """Written anew: start at the step, add it until over the limit, take it off once."""
    rng = random.Random(0)
    for _ in range(50):
        fixed, unit, step = rng.randrange(300), rng.randrange(1, 40), rng.choice([5, 10, 25, 500])

        def count(n: int, fixed: int = fixed, unit: int = unit) -> int:
            return fixed + unit * n

        if count(step) > 4096:
            continue
        n = step
        while count(n) <= 4096:
            n += step
        assert Steps(step, step, step).find(count, 4096, "words") == n - step
        assert Steps(step, 1, step).find(count, 4096, "words") == (4096 - fixed) // unit
        most = rng.randrange(step, 2 * n)
        capped = Steps(step, step, step, most=most).find(count, 4096, "words")
        assert capped == (n - step if n <= most else most if count(most) <= 4096 else n - step)


def test_a_sample_that_would_shrink_for_ever_is_refused() -> None:
    draft = Draft("", "", (), str, least=1, unit="lines")
    assert Steps(25, 1, 25).shrunk(80, lambda n: 10 * n, 300, draft) == 30
    with pytest.raises(ValueError, match="length=40 is too short: with 5 lines there are 50"):
        Steps(25, 1, 25).shrunk(80, lambda n: 10 * n, 40, draft)
    with pytest.raises(ValueError, match="solved example of the published scripts has"):
        make("vt", mode="star", count_tokens=lambda text: 4 * words(text))


def test_a_length_too_short_for_the_first_step_is_said_in_its_units() -> None:
    with pytest.raises(ValueError, match="length=49 is too short: with 5 lines there are 50 tok"):
        Steps(5, 20, 20).find(lambda n: 10 * n, 49, "lines")
    assert Steps(5, 20, 20).find(lambda n: 10 * n, 50, "lines") == 5
    with pytest.raises(ValueError, match="multikey_3: length=140 is too short: with 5 lines there"):
        make("niah_multikey_3", mode="ruler", length=140)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode='paper' is unknown; known"):
        make("vt", mode="paper")
