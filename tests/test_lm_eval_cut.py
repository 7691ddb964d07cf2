"""Prompts of the harness's long-context tasks are cut before their question, behind the context."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jinja2
import pytest
import ruler_samples

from star_jax.lm_eval.cut import MOST, query_start

LINES = [f"Line {i} says that the sky is blue, and line {i} is right." for i in range(100)]
CONTEXT = "\n".join(LINES)
HEADERS = {  # what chat templates put around a message
    "none": "{}",
    "chatml": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "llama": "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "[INST]{}[/INST]",
}


def query(text: str) -> str:
    start = query_start(text, patterns=True)
    assert start is not None
    return text[start:]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("task", ruler_samples.TASKS)
def test_ruler_is_cut_where_our_suite_cuts_it(task: str, header: str) -> None:
    """Its contexts may have questions, too: of the example of vt, or of cwe's."""
    sample = ruler_samples.make(task)
    text = HEADERS[header].format(sample.context + sample.query)
    assert query(text).startswith(sample.query.lstrip())


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("before", "asked"),
    [
        ("Facts:\n\n", "Where is Mary?"),
        ("", "Where is Mary?\n\nAnswer:"),
        ("", "Sum it up in one page.\n\nSummary: "),
        ("", "Question: Where is\nMary?\n\nBe very concise."),
        ("Question: Who?\nAnswer: I.\n\n", "Question: Where is Mary?\nAnswer:"),
        ("", "\u95ee\u9898\uff1aX\n\u8bf7\u7b80\u77ed\u56de\u7b54\u3002"),
        (
            "",
            "What is the correct answer to this question: Who?\nOne.\nChoices:\n(A) x\n\nA:",
        ),
        ("", "Which of the two?\nA. the first\nB. the second\n\nAnswer:"),
        ("", "Which of the two?\n(A) the first\n(B) the second"),
        ("", "Which colour?\nA) blue\nB) red\n\nAnswer with one letter.\nAnswer:"),
        ("", "Is the sky blue?\nOptions:\n- Yes\n- No\nAnswer:"),
    ],
)
def test_a_question_is_found_by_its_label_or_as_the_last_line(
    before: str, asked: str, header: str
) -> None:
    text = HEADERS[header].format(f"{before}{CONTEXT}\n{asked}")
    assert query(text).startswith(asked)


@pytest.mark.parametrize("header", [name for name in HEADERS if name != "none"])
@pytest.mark.parametrize("begun", ["The answer is", "Let me see.\n\nIt is the"])
def test_what_an_answer_begins_with_is_a_cue(begun: str, header: str) -> None:
    asked = HEADERS[header].format(f"{CONTEXT}\nWhere is Mary?") + begun
    assert query(asked).startswith("Where is Mary?")
    again = query(f"{asked}<|end|>\n{HEADERS[header].format('Where is John?')}")
    assert "Where is John?" in again and begun not in again


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is it?",
        "word " * 5000,  # one line
        f"Question: a\n{CONTEXT} {'word ' * 5000}",
        "Answer:\n" * 9,
    ],
)
def test_no_place_leaves_a_short_query(text: str) -> None:
    assert query_start(text, patterns=True) is None


def test_a_label_far_from_the_end_is_none() -> None:
    text = f"Question: a\n{CONTEXT}\nThe end is near."
    assert len(text) > 2 * len("The end is near.") + MOST
    assert query(text) == "The end is near."


def test_without_patterns_the_last_line_counts() -> None:
    text = f"{CONTEXT}\nQuestion: a\nBe concise."
    start = query_start(text, patterns=False)
    assert text[start:] == "Be concise."


def tasks() -> pathlib.Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return pathlib.Path(spec.origin).parent / "tasks"


QUESTION = "Which of the lines is right about the sky?"
DOC: dict[str, Any] = {
    "context": CONTEXT,
    "input": QUESTION,
    "question": QUESTION,
    "options": ["one", "two", "three", "four"],
}
# In these tasks what is asked for stands first, or is the text's own end.
OPEN = {"longbook_sum_en", "lcc", "vcsum", "repobench-p"}


@pytest.mark.parametrize("suite", ["longbench", "infinitebench", "babilong"])
def test_prompts_of_the_harness_are_cut_behind_their_context(suite: str) -> None:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    functions: dict[str, Callable[[dict[str, Any]], str]] = {}
    if suite == "infinitebench":
        utils = tasks() / suite / "utils.py"
        exec(compile(utils.read_text(), utils, "exec"), functions)
    seen = 0
    for file in sorted((tasks() / suite).glob("*.yaml")):
        given = yaml.load(file.read_text(), Loader)
        template = given.get("doc_to_text")
        if template is None or file.stem.endswith("_e"):  # no task; or another's, shorter
            continue
        if template.startswith("utils."):
            text = functions[template.removeprefix("utils.")](DOC)
        else:
            more = {"input": CONTEXT} if suite == "babilong" else {}
            text = jinja2.Template(template).render(DOC | more)
        text = given.get("description", "") + text
        asked, behind = query(text), text.index(CONTEXT) + len(CONTEXT)
        if file.stem.removeprefix("infinitebench_") in OPEN:
            assert LINES[-1] in asked
            assert LINES[-3] not in asked
        else:
            assert len(text) - len(asked) >= behind, file.stem
        assert QUESTION not in text[behind:] or QUESTION in asked, file.stem
        seen += 1
    assert seen >= {"longbench": 21, "infinitebench": 11, "babilong": 20}[suite]
