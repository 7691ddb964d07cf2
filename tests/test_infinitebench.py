"""InfiniteBench: prompts of its files, contexts cut in the middle, and tasks made here."""

import itertools
import json
import pathlib
import re
from typing import Any

import pytest
from test_tokenizer import load, save

from star_jax.eval.fitting import Frame, without_middle
from star_jax.eval.infinitebench import files, generate, tasks
from star_jax.eval.infinitebench.metrics import METRICS
from star_jax.runs.sample import Sample

MC = {"options": ["red", "blue", "green", "grey"]}
# A line of each task, and the texts around its context with their answers.
LINES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "longbook_sum_eng": ({"input": "", "answer": ["It ends."]}, "Summary:", ("It ends.",)),
    "longbook_qa_eng": (
        {"input": "Who? ", "answer": ["Ann", "Anna"]},
        "Question: Who?\nAnswer:",
        ("Ann", "Anna"),
    ),
    "longbook_choice_eng": (
        {"input": "Which {input}?", "answer": ["green"], **MC},
        "Question: Which {input}?\nA. red\nB. blue\nC. green\nD. grey\n"
        "The letter of the correct answer is",
        ("green", "C"),
    ),
    "longdialogue_qa_eng": ({"input": "x", "answer": ["JACK"]}, "stands for", ("JACK",)),
    "longbook_qa_chn": (
        {"input": "谁", "answer": ["宝玉"]},
        "问题\uff1a谁\n答案\uff1a",
        ("宝玉",),
    ),
    "code_debug": (
        {"input": "Find it.", "answer": ["blue", "B"], **MC},
        "A. red\nB. blue\nC. green\nD. grey\nThe correct option is:",
        ("blue", "B"),
    ),
    "code_run": (
        {"input": "Please give the return value of func_12(-7). Be concise.", "answer": [41]},
        "Compute the exact value of func_12(-7).\nThe value of func_12(-7) is",
        ("41",),
    ),
    "math_find": (
        {"input": "Just a number. The second largest number of the list is: ", "answer": [94]},
        "Just a number. The second largest number of the list is:",
        ("94",),
    ),
    "math_calc": ({"input": "", "answer": [[1, -4, 8]]}, "Values:", ("1", "-4", "8")),
    "passkey": (
        {"input": "What is the pass key?", "answer": ["01234"]},
        "What is the pass key?\nThe pass key is",
        ("01234",),
    ),
    "number_string": (
        {"input": "What is the sequence of digits?", "answer": "1122"},
        "What is the sequence of digits?\nThe sequence of digits is",
        ("1122",),
    ),
    "kv_retrieval": (
        {"input": '\nKey: "a"\nThe value associated with the specified key is: ', "answer": ["b"]},
        'Key: "a"\nThe value associated with the specified key is:',
        ("b",),
    ),
}


@pytest.fixture(name="frame", scope="module")
def _frame(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    save(directory, adds="<s> $A")
    tokenizer = load(directory)

    def make(length: int, template: str = "base", max_new_tokens: int = 10) -> Frame:
        return Frame.make(template, tokenizer, length=length, max_new_tokens=max_new_tokens)

    return make


def write(folder: pathlib.Path, task: str, *lines: dict[str, Any] | str) -> str:
    path = folder / f"{task}.jsonl"
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return str(path)


def line(task: str, **changes: Any) -> dict[str, Any]:
    return {"id": 0, "context": "the text of it", "options": []} | LINES[task][0] | changes


@pytest.mark.parametrize("task", list(LINES))
def test_prompt_of_each_task(task: str, frame: Any, tmp_path: pathlib.Path) -> None:
    source = files.Source(write(tmp_path, task, "", line(task)), task, frame(2000))
    assert source.indices == [0]
    sample = source.sample(0)
    _, query, outputs = LINES[task]
    assert sample.context == source._lines[0].question.head + "the text of it\n\n"
    assert sample.query.endswith(query)
    assert sample.outputs == outputs
    assert METRICS[task].score("", sample) == 0
    right = f"{outputs[-1]}." if task == "code_debug" else " ".join(outputs)
    assert METRICS[task].score(right, sample) > 0
    chat = files.Source(write(tmp_path, task, line(task)), task, frame(2000, "llama3")).sample(0)
    after = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    prefix = tasks.ask(task, line(task)).answer_prefix
    assert chat.query.endswith(after + prefix)
    assert chat.context.endswith("user<|end_header_id|>\n\n" + sample.context)


def test_math_find_says_what_to_look_for() -> None:
    asked = tasks.ask("math_find", line("math_find"))
    assert asked.head == "What is the second largest number in the following list?\n\n"


@pytest.mark.parametrize("length", [500, 900, 5000])
def test_the_middle_of_a_context_is_left_out_and_nothing_of_the_question(
    length: int, frame: Any, tmp_path: pathlib.Path
) -> None:
    text = "".join(f"{i:05} is the number, 中{i}.\n" for i in range(4000))
    path = write(tmp_path, "longbook_qa_eng", line("longbook_qa_eng", context=text))
    made = frame(length)
    sample = files.Source(path, "longbook_qa_eng", made).sample(0)
    head = sample.context.index("\n\n") + 2
    kept = sample.context[head : -len("\n\n")]
    end = next(i for i in range(len(kept)) if not text.startswith(kept[: i + 1]))
    assert kept[:end] == text[:end] and kept[end:] == text[-len(kept) + end :]
    assert sample.query.endswith("Question: Who?\nAnswer:")
    tokens = len(made.tokenizer.encode_context(sample.context))
    tokens += len(made.tokenizer.encode_query(sample.query)) + 10
    assert sample.length == tokens
    assert length - 8 <= tokens <= length
    count = made.tokenizer.count
    assert abs(count(kept[:end]) - count(kept[end:])) <= 8


def test_what_is_left_is_what_the_whole_tokenised_would_leave(frame: Any) -> None:
    text = "".join(f"{i} the sky is 中 {i * i}. " for i in range(2000))
    offsets = frame(99).tokenizer.offsets
    everything = offsets(text)
    for tokens in (1, 2, 7, 100, 1001, len(everything) - 1):
        first, last = tokens // 2, tokens - tokens // 2
        expected = text[: everything[first - 1][1] if first else 0]
        expected += text[everything[-last][0] :]
        assert without_middle(text, tokens, offsets) == expected
    assert without_middle(text, len(everything), offsets) == text


def test_questions_of_one_context_stand_together_and_see_the_same_of_it(
    frame: Any, tmp_path: pathlib.Path
) -> None:
    contexts = [f"{name} " * 300 for name in "ab"]
    order = [0, 1, 0, 1, 1, 0]
    lines = [
        line("longbook_qa_eng", context=contexts[which], input="Who? " * (i + 1))
        for i, which in enumerate(order)
    ]
    path = write(tmp_path, "longbook_qa_eng", *lines)
    source = files.Source(path, "longbook_qa_eng", frame(400))
    assert source.indices == [0, 2, 5, 1, 3, 4]
    samples = [source.sample(i) for i in range(6)]
    assert [sample.index for sample in samples] == source.indices
    assert len({sample.context for sample in samples[:3]}) == 1
    assert len({sample.context for sample in samples[3:]}) == 1
    assert max(sample.length or 0 for sample in samples) <= 400
    assert len({sample.query for sample in samples}) == 6


@pytest.mark.parametrize(
    ("task", "bad", "says"),
    [
        ("passkey", '{"id": 0, "context', "passkey.jsonl:2: not JSON"),
        ("passkey", {"context": None}, "'context' is None, and no text"),
        ("passkey", {"context": "  "}, "'context' is '  ', and no text"),
        ("passkey", {"input": 3}, "'input' is not a string but 3"),
        ("passkey", {"input": " "}, "'input' is empty"),
        ("passkey", {"answer": []}, "'answer' is [], and not texts or numbers"),
        ("passkey", {"answer": [True]}, "'answer' is [True]"),
        ("passkey", {"answer": ["a", " "]}, "'answer' is"),
        ("math_find", {"input": "Which?"}, "'input' has nothing like 'The .+ of'"),
        ("math_find", {"answer": ["many"]}, "and not numbers"),
        ("code_run", {"input": "What does f(3) return?"}, "'input' has nothing like"),
        ("code_debug", {"options": ["a"]}, "'options' is ['a'], and not four texts"),
        ("longbook_choice_eng", {"answer": ["pink"]}, "which is none of 'options'"),
        ("longbook_choice_eng", {"answer": ["pink", "BC"]}, "which is none of 'options'"),
        ("longbook_choice_eng", {"answer": ["red", "C"]}, "another of 'options' has its text"),
        ("passkey", {"answer": ["abc"]}, "and not digits"),
        ("number_string", {"answer": 12345.0}, "and not digits"),
        ("passkey", {"answer": [["1"], ["2"]]}, "and not texts or numbers"),
        ("math_find", {"answer": float("nan")}, "'answer' is nan"),
        ("longbook_qa_eng", {"input": "q \ud83d"}, "is not valid text (surrogates not allowed)"),
        ("longbook_qa_eng", {"answer": ["\ud83d"]}, "is not valid text (surrogates not allowed)"),
    ],
)
def test_a_bad_line_is_named(
    task: str, bad: dict[str, Any] | str, says: str, frame: Any, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path, task, line(task), bad if isinstance(bad, str) else line(task, **bad))
    with pytest.raises(ValueError, match=f"{task}.jsonl:2: ") as e:
        files.Source(path, task, frame(1000))
    assert says in str(e.value)


def test_a_length_without_room_for_any_context_is_refused(
    frame: Any, tmp_path: pathlib.Path
) -> None:
    path = write(tmp_path, "passkey", line("passkey"))
    with pytest.raises(ValueError, match=r"key.jsonl:1: length=100 is too short: without any of"):
        files.Source(path, "passkey", frame(100))


def read(task: str, sample: Sample) -> str:
    """A perfect reader of the tasks that are made here."""
    text = str(sample.context)
    if task == "kv_retrieval":
        key = re.search(r'Key: "(.+)"', sample.query)
        pairs = json.loads(text[text.index("{") : text.index("}") + 1])
        assert key
        return pairs[key[1]]
    if task == "math_find":
        which = re.search(r"The (second |third )?(largest|smallest) number of", sample.query)
        assert which and f"What is the {which[1] or ''}{which[2]} number in" in text
        numbers = json.loads(text[text.index("[") : text.index("]") + 1])
        rank = {None: 0, "second ": 1, "third ": 2}[which[1]]
        by_rank = sorted(numbers, reverse=which[2] == "largest")
        assert len(set(by_rank[:4])) == 4  # no two of them are alike
        return str(by_rank[rank])
    if task == "code_run":
        space: dict[str, Any] = {}
        exec(text[text.index("def ") :], space)
        call = re.search(r"func_\d+\(-?\d+\)", sample.query)
        assert call
        return str(eval(call[0], space))
    found = re.search(r"The (?:pass key|sequence of digits) is (\d+)\.", text)
    assert found
    return found[1]


@pytest.mark.parametrize("task", generate.TASKS)
def test_made_tasks_have_their_answer_where_they_say(task: str, frame: Any) -> None:
    answers, depths = set(), []
    made = frame(3000)
    for index in range(15):
        sample = generate.generate(task, index, seed=0, frame=made)
        answer = read(task, sample)
        assert (answer,) == sample.outputs
        assert METRICS[task].score(answer, sample) == 1
        assert METRICS[task].score("", sample) == 0
        spans = [sample.context[a:b] for a, b in sample.needles]
        if task == "code_run":
            space: dict[str, Any] = {}
            exec("\n\n".join(spans), space)  # these alone are enough
            call = sample.query.split(" is")[0].split()[-1]
            assert str(eval(call, space)) == answer
        else:
            assert len(spans) == 1 and answer in spans[0]
            assert sample.context.count(spans[0]) == 1 or task == "math_find"
        tokens = len(made.tokenizer.encode_context(sample.context))
        tokens += len(made.tokenizer.encode_query(sample.query)) + 10
        assert sample.length == tokens
        assert 3000 - 100 <= tokens <= 3000
        answers.add(answer)
        depths.append(sample.needles[0][0] / len(sample.context))
    assert len(answers) > 10
    assert (min(depths) < 0.25 and max(depths) > 0.75) or task == "code_run"
    again = generate.generate(task, 4, seed=0, frame=frame(3000))
    assert again == generate.generate(task, 4, seed=0, frame=frame(3000))
    assert again.context != generate.generate(task, 4, seed=1, frame=frame(3000)).context


def test_digits_of_a_sequence_are_repeated(frame: Any) -> None:
    for index in range(20):
        (digits,) = generate.generate("number_string", index, seed=0, frame=frame(900)).outputs
        assert len(digits) == 10
        assert sum(a == b for a, b in itertools.pairwise(digits)) >= 5
