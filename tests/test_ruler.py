"""RULER's needle tasks: what is generated, how it is fitted, and how it is scored."""

import re
from typing import Any

import pytest

from star_jax.eval import metrics, ruler
from star_jax.eval.sample import Sample

TASKS = sorted(ruler.TASKS)


def words(text: str) -> int:
    """A tokenizer's stand-in: words, digits and punctuation marks count one each."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w ]", text))


def make(task: str, **changes: Any) -> Sample:
    settings: dict[str, Any] = {
        "length": 1024,
        "index": 0,
        "seed": 42,
        "count_tokens": words,
        "max_new_tokens": 128,
        "template": "base",
        "keys": None,
    }
    return ruler.generate(task, **(settings | changes))


def answer_of(sample: Sample) -> str:
    """A perfect reader: finds the asked key's line in the context and reads its number."""
    found = re.search(r"magic number for (.+?) mentioned", sample.query)
    assert found
    return re.findall(rf"numbers for {re.escape(found[1])} is: (\d+)\.", sample.context)[-1]


@pytest.mark.parametrize("task", TASKS)
def test_text_is_the_benchmarks(task: str) -> None:
    sample = make(task, length=300)
    lines = sample.context.split("\n")
    assert lines[0] == (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards."
    )
    assert lines[-1] == ""
    assert len(lines) >= 4
    noise = {
        "niah_single_1": r"The grass is green\. The sky is blue\. The sun is yellow\. "
        r"Here we go\. There and back again\.",
        "niah_multikey_2": r"One of the special magic numbers for [\w '-]+ is: [1-9]\d{6}\.",
    }[task]
    needle = r"One of the special magic numbers for [\w '-]+ is: [1-9]\d{6}\."
    assert all(re.fullmatch(f"{noise}|{needle}", line) for line in lines[1:-1])
    assert re.fullmatch(
        r"What is the special magic number for ([\w '-]+) mentioned in the provided text\?"
        r" The special magic number for \1 mentioned in the provided text is",
        sample.query,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [512, 1024, 4096])
def test_fits_the_length(task: str, length: int) -> None:
    for index in range(5):
        sample = make(task, length=length, index=index, max_new_tokens=16)
        used = words(sample.context) + words(sample.query) + words(sample.outputs[0]) + 16
        assert used == sample.length
        assert 0.97 * length < used <= length or length - 26 < used <= length


def test_fits_any_number_of_tokens_per_line() -> None:
    for per_line in (1, 7, 400):

        def count(lines: int, each: int = per_line) -> int:
            return 5 + each * lines

        lines, tokens = ruler._most_lines(count, 4096)
        assert (lines, tokens) == ((4096 - 5) // per_line, 5 + per_line * lines)


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_reader_scores_one_and_an_empty_one_zero(task: str) -> None:
    for index in range(20):
        sample = make(task, index=index)
        metric = ruler.TASKS[task].metric
        assert metric(metrics.postprocess(f" {answer_of(sample)}.\n"), sample.outputs) == 1
        assert metric(metrics.postprocess(""), sample.outputs) == 0


@pytest.mark.parametrize("task", TASKS)
def test_needle_span_is_the_sentence(task: str) -> None:
    for index in range(20):
        sample = make(task, index=index)
        assert sample.needle is not None
        start, end = sample.needle
        sentence = sample.context[start:end]
        assert sentence.startswith("One of the special magic numbers for ")
        assert sentence.endswith(f" is: {sample.outputs[0]}.")
        assert sample.context[start - 1] == sample.context[end] == "\n"


@pytest.mark.parametrize("task", TASKS)
def test_depth_varies(task: str) -> None:
    depths = []
    for index in range(40):
        sample = make(task, index=index)
        assert sample.needle is not None
        depths.append(sample.needle[0] / len(sample.context))
    assert min(depths) < 0.2
    assert max(depths) > 0.8
    assert all(any(i / 4 <= d < (i + 1) / 4 for d in depths) for i in range(4))


@pytest.mark.parametrize("task", TASKS)
def test_reproducible_and_different(task: str) -> None:
    assert make(task, index=3) == make(task, index=3)
    others = [make(task, **c) for c in ({"index": 1}, {"seed": 43}, {"length": 1000})]
    outputs = {s.outputs for s in [make(task), *others]}
    assert len(outputs) == 4


def test_keys_come_from_the_list_and_are_distinct() -> None:
    keys = [f"key{chr(97 + i)}" for i in range(20)]
    sample = make("niah_multikey_2", length=400, keys=keys)
    found = re.findall(r"numbers for (\w+) is", sample.context)
    assert len(found) > 5
    assert len(set(found)) == len(found)
    assert set(found) <= set(keys)


def test_llama3_template_is_left_as_it_is() -> None:
    sample = make("niah_single_1", template="llama3")
    assert sample.context.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "A special magic number is hidden"
    )
    assert (
        "text?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n The special magic"
        in sample.query
    )
    assert sample.needle is not None
    assert sample.context[slice(*sample.needle)].startswith("One of the special")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 150}, "too short"),
        ({"template": "chatty"}, "template='chatty' is unknown"),
        ({"keys": ["only", "two"]}, "2 keys are too few"),
        ({"keys": ["one", "one"]}, "distinct"),
        ({"keys": []}, "0 keys"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("niah_multikey_2", **changes)


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="task='vt' is unknown; known"):
        make("vt")


def test_metric_follows_ruler() -> None:
    assert metrics.postprocess(" \x00a\tb\x1f ") == "a\nb"
    assert metrics.string_match_all("It is ABC-1 and 2", ["abc", "2", "3", "4"]) == 0.5
    with pytest.raises(ValueError, match="nothing to compare"):
        metrics.string_match_all("x", [])
