"""BABILong's comparison of answers: the right label, and no other one."""

from star_jax.runs.metrics import Metric
from star_jax.runs.sample import Sample

_PLACES = "bathroom bedroom garden hallway kitchen office"
# What answers are made of; a few tasks share a list.
LABELS: dict[str, tuple[str, ...]] = {
    task: tuple(labels.split())
    for tasks, labels in (
        ("qa1 qa2 qa3 qa4 qa11 qa12 qa13", _PLACES),
        ("qa5", "bill fred jeff mary apple football milk"),
        ("qa6 qa9 qa17 qa18", "no yes"),
        ("qa7", "none one three two"),
        ("qa8", "apple football milk nothing"),
        ("qa10", "maybe no yes"),
        ("qa14", "bedroom cinema kitchen office park school"),
        ("qa15", "cat mouse sheep wolf"),
        ("qa16", "gray green white yellow"),
        ("qa19", "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w"),
        ("qa20", "bedroom bored garden hungry kitchen thirsty tired"),
    )
    for task in tasks.split()
}


def compare_answers(task: str, pred: str, question: str, target: str) -> bool:
    """Whether the first sentence of a prediction names the target, and no other label.

    Labels count wherever they occur, also within words, so that of qa7 "none" is never right: it
    contains "one". Labels of the question do not count. Of a target of several, as in qa8, each
    must be named.
    """
    said = pred.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    named = {label for label in LABELS[task] if label in said and label not in question.lower()}
    target = target.lower()
    if "," in target and len(target) > 3:  # not a path like e,n
        wanted = target.split(",")
        return all(each in named for each in wanted) and len(named) == len(wanted)
    return named == {target}


def _score(pred: str, sample: Sample) -> float:
    task, question = sample.facts["task"], sample.facts["question"]
    return float(compare_answers(task, pred, question, sample.outputs[0]))


COMPARE_ANSWERS = Metric("babilong compare_answers", _score)
