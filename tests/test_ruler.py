"""RULER's tasks: what holds for each, and the needle tasks' text."""

import hashlib
import random
import re
from typing import Any

import pytest
from ruler_samples import ESSAY_TASKS, LINE_TASKS, NEEDLE_TASKS, QA_TASKS, TASKS, make, read, words

from star_jax.eval import ruler
from star_jax.eval.ruler import draft, niah
from star_jax.runs import metrics

LENGTHS = [512, 1024, 2048, 4096]
NOISE = (
    r"The grass is green\. The sky is blue\. The sun is yellow\. "
    r"Here we go\. There and back again\."
)
HEX = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.mark.parametrize("task", LINE_TASKS)
def test_needle_text_is_the_benchmarks(task: str) -> None:
    key, kind, value = r"[\w '-]+", "number", r"[1-9]\d{6}"
    if task == "niah_multikey_3":
        key, kind, value = HEX, "uuid", HEX
    needle = rf"One of the special magic {kind}s for {key} is: {value}\."
    sample = make(task, length=600)
    lines = sample.context.split("\n")
    assert lines[0] == (
        f"A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {kind} afterwards."
    )
    assert lines[-1] == ""
    assert len(lines) >= 4
    haystack = {"niah_single_1": NOISE}.get(task, needle)
    assert all(re.fullmatch(f"{haystack}|{needle}", line) for line in lines[1:-1])
    assert re.fullmatch(
        rf"What is the special magic {kind} for ({key}) mentioned in the provided text\?"
        rf" The special magic {kind} for \1 mentioned in the provided text is",
        sample.query,
    )


def test_answers_may_have_rulers_numbers_of_tokens() -> None:
    assert list(ruler.TASKS) == list(ruler.NAMES)
    assert {task: ruler.TASKS[task].max_new_tokens for task in TASKS} == {
        **dict.fromkeys(NEEDLE_TASKS, 128),
        "vt": 30,
        "cwe": 120,
        "fwe": 50,
        "qa_1": 32,
        "qa_2": 32,
    }
    for task in TASKS:
        expected = metrics.MATCH_PART if task in QA_TASKS else metrics.MATCH_ALL
        assert ruler.TASKS[task].metric is expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", LENGTHS)
def test_fits_the_length(task: str, length: int) -> None:
    line = {"niah_multikey_3": 80, "cwe": 0, "fwe": 0, "qa_1": 50}.get(task, 26)
    line = 0 if task in ESSAY_TASKS else line
    for index in range(5):
        sample = make(task, length=length, index=index, max_new_tokens=120)
        used = words(sample.context) + words(sample.query) + words(" ".join(sample.outputs)) + 120
        assert used == sample.length
        assert used <= length
        assert used > min(0.97 * length, length - line)


def test_fits_any_number_of_tokens_per_line() -> None:
    for per_line in (1, 7, 400):

        def count(lines: int, each: int = per_line) -> int:
            return 5 + each * lines

        lines, tokens = draft.largest(count, 4096)
        assert (lines, tokens) == ((4096 - 5) // per_line, 5 + per_line * lines)


def test_fits_with_few_counts() -> None:
    """Counting is tokenising: also where units grow along the text, as numbers do."""
    asked = []

    def count(n: int) -> int:
        asked.append(n)
        return 40 + 3 * n + sum(max(0, n - 10**k) for k in range(1, 6))

    n, tokens = draft.largest(count, 131072, least=10)
    assert tokens == count(n) <= 131072 < count(n + 1)
    assert len(asked) <= 10


@pytest.mark.parametrize("kind", ["alike", "off by a share", "off by much"])
def test_searching_with_an_estimate_finds_the_same(kind: str) -> None:
    """Whatever the estimate is; with a good one, two counts do beside the first."""
    rng, most = random.Random(kind), 0
    for _ in range(100):
        units = [rng.randrange(1, 60) for _ in range(3000)]
        sums = [rng.randrange(500)]
        for unit in units:
            sums.append(sums[-1] + unit)
        limit, least = rng.randrange(sums[30], sums[-1]), rng.randrange(5)
        asked: list[int] = []

        def whole(n: int, sums: list[int] = sums) -> int:
            return sums[n] if n <= 3000 else sums[-1] + 60 * (n - 3000)

        def count(n: int, asked: list[int] = asked, whole: Any = whole) -> int:
            asked.append(n)
            return whole(n)

        def near(n: int, whole: Any = whole) -> int:
            return {"alike": whole(n) - 17, "off by a share": int(1.02 * whole(n))}.get(
                kind, 99 * n
            )

        found = draft.largest_by(near, count, limit, least=least, unit="units")
        expected = max(n for n in range(least, 3001) if sums[n] <= limit)
        assert found == (expected, sums[expected])
        most = max(most, len(asked))
    assert most <= {"alike": 3, "off by a share": 6, "off by much": 30}[kind]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [512, 4096])
def test_a_perfect_reader_scores_one_and_others_zero(task: str, length: int) -> None:
    for index in range(10):
        sample = make(task, index=index, length=length, max_new_tokens=120)
        metric = ruler.TASKS[task].metric
        assert metric.score(f" {read(task, sample)}.\n", sample) == 1
        assert metric.score("", sample) == 0
        assert metric.score(sample.query, sample) == 0


@pytest.mark.parametrize("task", LINE_TASKS)
def test_needle_span_is_the_sentence(task: str) -> None:
    for index in range(20):
        sample = make(task, index=index, wrap=("<user>", "<model>"))
        ((start, end),) = sample.needles
        sentence = sample.context[start:end]
        assert sentence.startswith("One of the special magic ")
        assert sentence.endswith(f" is: {sample.outputs[0]}.")
        assert sample.context[start - 1] == sample.context[end] == "\n"


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe"])
def test_other_tasks_have_no_needle(task: str) -> None:
    assert make(task).needles == ()


@pytest.mark.parametrize("task", TASKS)
def test_where_answers_stand_varies(task: str) -> None:
    """In forty samples the first mention of the first answer is in every quarter, or moves."""
    depths = []
    for index in range(40):
        sample = make(task, index=index, length=1400)
        at = sample.needles[0][0] if sample.needles else sample.context.index(sample.outputs[0])
        depths.append(at / len(sample.context))
    if task in NEEDLE_TASKS or task in QA_TASKS:
        assert min(depths) < 0.2
        assert max(depths) > 0.8
        assert all(any(i / 4 <= d < (i + 1) / 4 for d in depths) for i in range(4))
    else:
        assert len(set(depths)) > 10


@pytest.mark.parametrize("task", TASKS)
def test_reproducible_and_different(task: str) -> None:
    assert make(task, index=3) == make(task, index=3)
    others = [make(task, index=1), make(task, seed=43), make(task, length=1100)]
    assert len({s.context for s in [make(task), *others]}) == 4
    if task not in QA_TASKS:  # whose questions are those of a file, in its order
        assert len({s.outputs for s in [make(task), *others]}) == 4


@pytest.mark.parametrize(
    ("task", "keys", "digest"),
    [
        ("niah_single_1", False, "cec56fc9e3043891"),
        ("niah_single_1", True, "0af00060e5796c9e"),
        ("niah_multikey_2", False, "81f2ac48bf9523c9"),
        ("niah_multikey_2", True, "24062ecb590544e5"),
        ("niah_multikey_3", False, "fbe18272cf580d05"),
        ("vt", False, "205f65d0f2aaa5cd"),
        ("cwe", False, "941d137e36cbb571"),
        ("fwe", False, "066e140b404464fd"),
    ],
)
def test_samples_stay_what_they_were(task: str, keys: bool, digest: str) -> None:
    """Recorded scores are of these very samples. Without keys, with wonderwords 3.0.1."""
    letters = "abcdefghijklmnop"
    given = [f"key-{a}{b}" for a in letters for b in letters] if keys else None
    found = hashlib.sha256()
    has_words = task in ("niah_single_1", "niah_multikey_2")
    for wrap in (ruler.TEMPLATES["base"], ruler.TEMPLATES["llama3"]):
        for length in (512, 2048):
            for index in range(10 if has_words else 5):
                s = make(task, length=length, index=index, seed=7, keys=given, wrap=wrap)
                text = f"{index} {s.context} {s.query} {s.outputs} {s.needles} {s.length}"
                if has_words:
                    (needle,) = s.needles
                    text = (
                        f"Sample(index={index}, context={s.context!r}, query={s.query!r}, "
                        f"outputs={s.outputs}, {needle=}, length={s.length})"
                    )
                found.update(text.encode())
    assert found.hexdigest()[:16] == digest


def test_keys_come_from_the_list_and_are_distinct() -> None:
    keys = [f"key{chr(97 + i)}" for i in range(20)]
    sample = make("niah_multikey_2", length=400, keys=keys)
    found = re.findall(r"numbers for (\w+) is", sample.context)
    assert len(found) > 5
    assert len(set(found)) == len(found)
    assert set(found) <= set(keys)


@pytest.mark.parametrize("mode", ruler.MODES)
@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multivalue"])
def test_values_are_distinct_also_where_few_are_drawn_from(
    task: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a long context one number in a few thousand is drawn twice: the answer's, maybe."""
    monkeypatch.setitem(niah._VALUES, "number", lambda rng: str(rng.randint(1001, 1300)))
    for index in range(5):
        sample = make(task, mode=mode, index=index, length=1024)
        found = re.findall(r"is: (\d+)\.", sample.context)
        assert 4 <= len(found) == len(set(found))
        assert set(read(task, sample).split(", ")) == set(sample.outputs)


@pytest.mark.parametrize("task", ["niah_multikey_3", "vt", "cwe", "fwe", *QA_TASKS])
def test_tasks_without_word_keys_ignore_the_list(task: str) -> None:
    assert make(task, keys=["only", "two"]) == make(task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("wrap", [*ruler.TEMPLATES.values(), ("<user>are ", "</user>")])
def test_a_wrap_stands_once_before_all_and_once_before_the_answer(
    task: str, wrap: tuple[str, str]
) -> None:
    before, between = wrap
    plain, wrapped = make(task, length=2048), make(task, length=2048, wrap=wrap)
    assert wrapped.outputs == plain.outputs
    first = plain.context.split("\n")[0][:40]
    assert wrapped.context.startswith(before + first)
    head, _, tail = plain.query.partition("? " if "? " in plain.query else "above. ")
    assert wrapped.query == plain.query.replace(f" {tail}", f"{between} {tail}")
    assert head in wrapped.query
    if before:
        assert (wrapped.context + wrapped.query).count(before) == 1
        assert (wrapped.context + wrapped.query).count(between) == 1


@pytest.mark.parametrize("task", TASKS)
def test_too_short_names_the_task_and_the_numbers(task: str) -> None:
    says = rf"^{task}, sample \d: length=250 is too short: with \d+ [\w ]+ there are \d+ tokens"
    with pytest.raises(ValueError, match=says):
        make(task, length=250, max_new_tokens=200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 150}, "too short"),
        ({"keys": ["only", "two"]}, "2 keys are too few at length=1024"),
        ({"keys": ["one", "one"]}, "distinct"),
        ({"keys": []}, "0 keys"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("niah_multikey_2", **changes)


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="task='qa_3' is unknown; known"):
        make("qa_3")


def test_metric_follows_ruler() -> None:
    assert metrics.postprocess(" \x00a\tb\x1f ") == "a\nb"
    assert metrics.string_match_all("It is ABC-1 and 2", ["abc", "2", "3", "4"]) == 0.5
    with pytest.raises(ValueError, match="nothing to compare"):
        metrics.string_match_all("x", [])
