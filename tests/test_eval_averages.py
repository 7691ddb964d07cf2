"""RULER's overall score: of all thirteen tasks, or none."""

from typing import Any

import pytest

from star_jax.eval import averages

# Section 2.9 of the reference document: Llama-3.1-8B-Instruct, exact attention, by task.
NAMES = "S1 S2 S3 MK1 MK2 MK3 MV MQ VT CWE FWE QA1 QA2".split()
TASKS = dict(
    zip(
        NAMES,
        (
            "niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 "
            "niah_multikey_3 niah_multivalue niah_multiquery vt cwe fwe qa_1 qa_2"
        ).split(),
        strict=True,
    )
)
PUBLISHED = {
    16384: ("100 100 100 99.8 100 99 99.9 99.5 99.56 75 88.87 80.8 56.4", 92.22),
    131072: ("100 99.6 99.8 97.6 87.2 66.8 91.55 97.8 61.76 0.04 72.33 76 41.6", 76.31),
}


def summary(length: int = 16384, row: str = "dense") -> list[dict[str, Any]]:
    scores = PUBLISHED[length][0].split()
    return [
        {
            "task": task,
            "length": length,
            "row": row,
            "n": 500,
            "score": float(score),
            "metric": "string_match_part" if task.startswith("qa") else "string_match_all",
            "notes": "",
        }
        for task, score in zip(TASKS.values(), scores, strict=True)
    ]


@pytest.mark.parametrize("length", PUBLISHED)
def test_the_mean_of_all_is_the_published_one(length: int) -> None:
    (one,) = averages.of_ruler(summary(length))
    assert (one["row"], one["length"], one["n_tasks"]) == ("dense", length, 13)
    assert one["mean"] == pytest.approx(PUBLISHED[length][1], abs=0.006)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"task": "niah_single_1[substitute]"}, 12),
        ({"task": "other"}, 12),
        ({"metric": "f1"}, 12),
        ({"score": None}, 13),
        ({"n": 499}, 13),
        ({"notes": "3 of 500 questions have no reference answer"}, 13),
    ],
)
def test_without_one_task_there_is_none(changes: dict[str, Any], count: int) -> None:
    lines = summary()
    lines[0] |= changes
    (one,) = averages.of_ruler(lines)
    assert (one["n_tasks"], one["mean"]) == (count, None)


def test_the_paragraph_says_which() -> None:
    lines = summary() + summary(131072) + summary(row="star_b4096_a4096")[:6]
    assert averages.paragraph(lines) == (
        "\n\nRULER, mean of 13 tasks: dense @ 16384 92.22, dense @ 131072 76.31."
        "\n\nRULER, 6/13 tasks, so no average: star_b4096_a4096 @ 16384."
    )
    assert averages.paragraph([lines[0] | {"task": "mine"}]) == ""
    uneven = [lines[0] | {"n": 3}, *lines[1:13]]
    assert averages.paragraph(uneven) == (
        "\n\nRULER, tasks of different numbers of scored questions, so no average: dense @ 16384."
    )
