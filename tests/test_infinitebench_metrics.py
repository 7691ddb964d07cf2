"""InfiniteBench's metrics: what its own functions say of these predictions, worked out by hand."""

import pytest

from star_jax.eval.infinitebench.metrics import METRICS
from star_jax.eval.infinitebench.tasks import TASKS
from star_jax.runs.sample import Sample

MC = ("The red house", "B")
BUG = ("parse_line", "C")


@pytest.mark.parametrize(
    ("task", "pred", "outputs", "expected"),
    [
        ("passkey", "The key is 01234.", ["01234"], 1),
        ("passkey", "1234", ["01234"], 0),  # zeros count
        ("passkey", "01234567", ["01234"], 0),
        ("passkey", "7 or 01234", ["01234"], 0),  # the first one counts
        ("passkey", "-01234", ["01234"], 1),
        ("passkey", "", ["01234"], 0),
        ("passkey", "no idea", ["01234"], 0),
        ("number_string", "4 427788888", ["4427788888"], 0),
        ("number_string", "sequence: 4427788888!", ["4427788888"], 1),
        ("kv_retrieval", '"ab-12".', ["ab-12"], 1),
        ("kv_retrieval", "it's:ab-12", ["ab-12"], 1),
        ("kv_retrieval", "ab-123", ["ab-12"], 0),
        ("kv_retrieval", "ab-12;", ["ab-12"], 0),  # this mark stays
        ("kv_retrieval", "", ["ab-12"], 0),
        ("math_find", "94", ["94"], 1),
        ("math_find", "It is 94.0", ["94"], 1),
        ("math_find", "94.5", ["94"], 0),
        ("math_find", "3.7", ["3"], 0),
        ("math_find", "-94", ["94"], 1),  # signs are not read
        ("math_find", "1, 94", ["94"], 0),
        ("math_find", "2.5 is it", ["2.5"], 1),
        ("math_find", "", ["94"], 0),
        ("math_find", "none", ["94"], 0),
        ("code_run", "The value is: -12.", ["-12"], 1),
        ("code_run", "`-12`", ["-12"], 1),
        ("code_run", "-12 I think", ["-12"], 0),  # the last word counts
        ("code_run", "1.5", ["5"], 1),  # a full stop is space
        ("code_run", "", ["-12"], 0),
        ("math_calc", "[1, 4, 8]", ["1", "4", "8"], 1),
        ("math_calc", "1 4 9 8", ["1", "4", "8"], 2 / 3),
        ("math_calc", "Values: 1", ["1", "4", "8"], 1 / 3),
        ("math_calc", "3 1 4 8", ["1", "4", "8"], 0),
        ("math_calc", "[1, -4, 8]", ["1", "-4", "8"], 1 / 3),  # signs are not read
        ("math_calc", "01 004", ["1", "4", "8"], 2 / 3),
        ("math_calc", "[0, 00, -0]", ["0", "0", "0"], 1),
        ("math_calc", "1 4 " + "8" * 4301, ["1", "4", "8"], 2 / 3),
        ("math_calc", "1 4 " + "0" * 4300 + "8", ["1", "4", "8"], 1),
        ("math_calc", "", ["1", "4", "8"], 0),
        ("longbook_choice_eng", "B", MC, 1),
        ("longbook_choice_eng", " B. The blue house", MC, 1),
        ("longbook_choice_eng", "Because", MC, 1),  # its first letter
        ("longbook_choice_eng", "A. The red house", MC, 0),
        ("longbook_choice_eng", "The red house", MC, 1),
        ("longbook_choice_eng", "the red house", MC, 0),
        ("longbook_choice_eng", "The answer is: B", MC, 1),
        ("longbook_choice_eng", "The answer is:B", MC, 0),  # one character is left out
        ("longbook_choice_eng", "The answer is The red house.", MC, 1),
        ("longbook_choice_eng", "The answer is", MC, 0),
        ("longbook_choice_eng", "The answer is C, not B", MC, 0),
        ("longbook_choice_eng", "I think B, or C", MC, 1),
        ("longbook_choice_eng", "I think BC, or B", MC, 0),  # BC is the first one
        ("longbook_choice_eng", "I think (B)", MC, 0),
        ("longbook_choice_eng", "", MC, 0),
        ("longdialogue_qa_eng", "JACK", ["JACK"], 1),
        ("longdialogue_qa_eng", "it's Jack!", ["JACK"], 1),
        ("longdialogue_qa_eng", "Jackson", ["JACK"], 0),
        ("longdialogue_qa_eng", "Mary Ann", ["MARY ANN"], 0),  # two words are never one
        ("longdialogue_qa_eng", "", ["JACK"], 0),
        ("code_debug", "C.", BUG, 1),
        ("code_debug", "C: parse_line", BUG, 1),
        ("code_debug", "C", BUG, 0),
        ("code_debug", "C)", BUG, 0),
        ("code_debug", "The correct option is: C", BUG, 1),
        ("code_debug", "The correct option is: `parse_line`", BUG, 1),
        ("code_debug", "The correct option is:C", BUG, 0),
        ("code_debug", "The answer is: Option C", BUG, 1),
        ("code_debug", "The answer is: B. C.", BUG, 0),
        ("code_debug", "parse_line", BUG, 0),
        ("code_debug", "answer: **C**", BUG, 1),
        ("code_debug", "is: A, and the answer is: C", BUG, 1),  # the longer one is looked for first
        ("code_debug", "The answer is:", BUG, 0),
        ("code_debug", "", BUG, 0),
        ("longbook_qa_eng", "in the Paris", ["Paris", "Rome"], 2 / 3),
        ("longbook_qa_chn", "“红楼梦”", ["红楼"], 4 / 5),
        ("longbook_sum_eng", "the cat\nsat", ["sat\nthe cat"], 1),
        ("longbook_sum_eng", "", ["sat"], 0),
    ],
)
def test_score(task: str, pred: str, outputs: list[str], expected: float) -> None:
    found = METRICS[task].score(pred, Sample(0, "c", "q", tuple(outputs)))
    assert found == pytest.approx(expected)


def test_every_task_has_a_metric_with_a_name() -> None:
    assert list(METRICS) and set(METRICS) == set(TASKS)
    named = {task: metric.name for task, metric in METRICS.items()}
    assert named["passkey"] == named["number_string"] == "infinitebench first_integer"
    assert named["longbook_sum_eng"] == "rougeLsum"
    assert len(set(named.values())) == 11
