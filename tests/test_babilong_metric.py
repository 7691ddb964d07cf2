"""BABILong's comparison of answers: what the official function says of these predictions."""

import pytest

from star_jax.eval.babilong.metric import COMPARE_ANSWERS, LABELS, compare_answers
from star_jax.eval.babilong.prompts import PROMPTS
from star_jax.runs.sample import Sample

BEFORE = "Where was the apple before the garden?"


@pytest.mark.parametrize(
    ("task", "pred", "question", "target", "is_right"),
    [
        ("qa1", "kitchen", "Where is John?", "kitchen", True),
        ("qa1", "kitchen. bathroom", "Where is John?", "kitchen", True),
        ("qa1", "kitchen or garden", "Where is John?", "kitchen", False),
        ("qa1", "bathroom. kitchen", "Where is John?", "kitchen", False),
        ("qa1", "", "Where is John?", "kitchen", False),
        ("qa1", ". kitchen", "Where is John?", "kitchen", False),
        ("qa1", "The KITCHEN", "Where is John?", "Kitchen", True),
        ("qa1", "in the kitchens", "Where is John?", "kitchen", True),
        ("qa1", "kitchen <example> garden", "Where is John?", "kitchen", True),
        ("qa1", "kitchen\n<context>garden", "Where is John?", "kitchen", True),
        ("qa1", "kitchen Question: garden?", "Where is John?", "kitchen", False),
        ("qa1", "kitchen", "Is John in the kitchen?", "kitchen", False),
        ("qa3", "Before the garden the apple was in the kitchen.", BEFORE, "kitchen", True),
        ("qa5", "Fred gave it to Jeff", "Who gave the milk to Jeff?", "Fred", True),
        ("qa5", "Fred gave it to Jeff", "Who gave the milk?", "Fred", False),
        ("qa7", "none", "How many objects is Mary carrying?", "none", False),
        ("qa7", "one", "How many objects is Mary carrying?", "one", True),
        ("qa8", "milk and apple", "What is Mary carrying?", "apple,milk", True),
        ("qa8", "milk", "What is Mary carrying?", "apple,milk", False),
        ("qa8", "milk, apple, football", "What is Mary carrying?", "apple,milk", False),
        ("qa8", "nothing", "What is Mary carrying?", "nothing", True),
        ("qa19", "e,n", "How do you go from a to b?", "e,n", True),
        ("qa19", "e, n", "How do you go from a to b?", "e,n", False),
        ("qa19", "e,n,w", "How do you go from a to b?", "e,n", False),
        ("qa6", "yes", "Is John here?", "yes", True),
        ("qa6", "yes, not no", "Is John here?", "yes", False),
        ("qa6", "I know: yes", "Is John here?", "yes", False),  # "know" has "no" in it
    ],
)
def test_comparison(task: str, pred: str, question: str, target: str, is_right: bool) -> None:
    assert compare_answers(task, pred, question, target) is is_right
    sample = Sample(0, "c", "q", (target,), facts={"task": task, "question": question})
    assert COMPARE_ANSWERS.score(pred, sample) == float(is_right)


def test_every_task_has_labels_and_a_prompt() -> None:
    assert list(PROMPTS) == [f"qa{i}" for i in range(1, 21)]
    assert set(LABELS) == set(PROMPTS)
    assert sum(map(len, LABELS.values())) == 7 * 6 + 7 + 4 * 2 + 4 + 4 + 3 + 6 + 4 + 4 + 12 + 7


@pytest.mark.parametrize("task", ["qa1", "qa2", "qa3", "qa4", "qa5"])
def test_an_answer_copied_from_an_example_is_wrong(task: str) -> None:
    for _, _, answer in PROMPTS[task].examples:
        said = {label for label in LABELS[task] if label in answer.lower()}
        assert not said
