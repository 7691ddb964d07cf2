"""The report: intervals, the difference to dense, needles cut and whole, and what is noted."""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from star_jax import Dense, Keep, OtherAnchor, Star
from star_jax.eval import intervals, report
from star_jax.eval.rows import Row

DENSE = Row(Dense())
STAR = Row(Star(block_size=64, anchor_size=16))


def entry(
    folder: pathlib.Path,
    row: Row,
    scores: Sequence[float | None],
    *,
    cuts: Sequence[bool | None] | None = None,
    tokens: int = 1000,
    times: Sequence[float] | None = None,
    metric: str | None = None,
    task: str = "task",
    length: int | None = 512,
) -> report.Entry:
    path = folder / f"{row.name}-{task}-{length}.jsonl"
    lines: list[dict[str, Any]] = [
        {
            "index": i,
            "score": None if score is None else float(score),
            "needle_cut": cuts[i] if cuts else None,
            "n_context_tokens": tokens - i,
            "n_generated": 5,
            "time_prefill": float(times[i]) if times else 1.0,
            "time_decode": 0.5,
            "time_compile": 2.0 if i == 0 else 0.0,
            **({"metric": metric} if metric else {}),
        }
        for i, score in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return report.Entry(task, length, row, str(path))


def test_scores_and_paired_differences(tmp_path: pathlib.Path) -> None:
    entries = [
        entry(tmp_path, DENSE, [1, 1, 1, 0]),
        entry(tmp_path, STAR, [1, 0, 1, 0.5], times=[1, 2, 4, 9]),
    ]
    dense, star = report.summarise(entries, devices=4)
    assert (dense["n"], dense["score"], dense["kind"], dense["row"]) == (4, 75.0, "dense", "dense")
    assert dense["block_size"] is dense["diff"] is dense["blocks"] is dense["n_whole"] is None
    assert star["score"] == 62.5
    assert (star["row"], star["block_size"], star["anchor_size"]) == ("star_b64_a16", 64, 16)
    assert star["diff"] == -12.5  # differences 0, -1, 0, 0.5
    low, high = intervals.of_difference([1, 0, 1, 0.5], [1, 1, 1, 0])
    assert (star["diff_low"], star["diff_high"]) == (round(100 * low, 2), round(100 * high, 2))
    low, high = intervals.of_mean([1, 0, 1, 0.5])
    assert (star["score_low"], star["score_high"]) == (round(100 * low, 2), round(100 * high, 2))
    assert (star["time_prefill"], star["time_decode"], star["time_compile"]) == (3.0, 0.5, 2.0)
    # 1000 + 999 + 998 + 997 tokens in 16 s; 4 x 5 tokens in 4 x 0.5 s.
    assert (star["time_prefill_rate"], star["time_per_token"]) == (249.625, 0.1)
    assert star["blocks"] == 16
    assert star["notes"] == ""


def test_differences_are_within_a_task_and_a_length(tmp_path: pathlib.Path) -> None:
    entries = [
        entry(tmp_path, STAR, [1, 1], task="a"),
        entry(tmp_path, DENSE, [0, 1], task="a"),  # after its star: the order does not matter
        entry(tmp_path, DENSE, [1, 1], task="b"),
        entry(tmp_path, STAR, [1, 1], task="b"),
        entry(tmp_path, DENSE, [0, 0], task="a", length=1024),
        entry(tmp_path, STAR, [1, 1], task="c"),
    ]
    found = report.summarise(entries, devices=1)
    assert [one["diff"] for one in found] == [50.0, None, None, 0.0, None, None]


def test_needles_cut_and_whole(tmp_path: pathlib.Path) -> None:
    entries = [
        entry(tmp_path, DENSE, [1, 1, 0, 1, 1]),
        entry(tmp_path, STAR, [1, 0, 1, 0, 1], cuts=[False, True, False, True, False]),
    ]
    dense, star = report.summarise(entries, devices=1)
    assert dense["n_whole"] is None
    assert (star["n_whole"], star["score_whole"]) == (3, 100.0)
    assert star["diff_whole"] == pytest.approx(33.33)
    assert (star["n_cut"], star["score_cut"]) == (2, 0.0)
    table = report.render([dense, star])
    assert "100.0 (3)" in table
    assert "0.0 (2)" in table
    assert "+33.3" in table


def test_one_sample_has_no_interval_of_its_difference(tmp_path: pathlib.Path) -> None:
    entries = [entry(tmp_path, DENSE, [1]), entry(tmp_path, STAR, [0])]
    star = report.summarise(entries, devices=1)[1]
    assert (star["diff"], star["diff_low"], star["diff_high"]) == (-100.0, None, None)
    assert "| -100.0 |" in " ".join(report.render([star]).split())


@pytest.mark.parametrize(
    ("tokens", "anchor", "devices", "notes"),
    [
        (64, 16, 1, "1 block: this is exact attention"),
        (128, 64, 1, "2 blocks: this is exact attention"),
        (128, 16, 2, "2 blocks: exact attention would be as fast"),
        (129, 64, 3, ""),
        (129, 64, 4, "3 blocks for 4 devices: 1 idle in phase 1"),
    ],
)  # fmt: skip
def test_notes(tmp_path: pathlib.Path, tokens: int, anchor: int, devices: int, notes: str) -> None:
    row = Row(Star(block_size=64, anchor_size=anchor))
    (one,) = report.summarise([entry(tmp_path, row, [1, 1], tokens=tokens)], devices=devices)
    assert one["notes"] == notes
    assert (f"- {row.name}, task @ 512: {notes}" in report.render([one])) == bool(notes)


@pytest.mark.parametrize(
    ("tokens", "row", "says"),
    [
        (64, Row(OtherAnchor(block_size=64, anchor_size=64, content="random")), "1 block: this is"),
        (128, Row(OtherAnchor(block_size=64, anchor_size=64, content="random")), "as fast"),
        (128, Row(OtherAnchor(block_size=64, anchor_size=64, positions="random")), "as fast"),
        (64, Row(STAR.attention, Keep(share=0.5, criterion="norm")), "as fast"),
        (64, Row(STAR.attention, cache_dtype="int8"), "as fast"),
    ],
)
def test_what_is_not_exact_attention_is_not_called_so(
    tmp_path: pathlib.Path, tokens: int, row: Row, says: str
) -> None:
    (one,) = report.summarise([entry(tmp_path, row, [1, 1], tokens=tokens)], devices=1)
    assert says in one["notes"] and ("this is exact" in one["notes"]) == ("this is" in says)


def test_a_note_that_many_rows_share_is_one(tmp_path: pathlib.Path) -> None:
    """Two notes for one row; the first of them also for another row, in all tasks and lengths."""
    rows = [Row(Star(block_size=64, anchor_size=size)) for size in (64, 16)]
    entries = [
        entry(tmp_path, row, [1, 1], tokens=tokens, task=task, length=length)
        for row, tokens in zip(rows, (60, 64), strict=True)
        for task in ("a|b", "c", "d")
        for length in (512, 1024, None)
    ]
    summary = report.summarise(entries, devices=4)
    notes = "1 block: this is exact attention; 1 block for 4 devices: 3 idle in phase 1"
    assert {one["notes"] for one in summary} == {notes}
    where = r"star_b64_a64, star_b64_a16, a\|b, c, d @ 512, 1024, all"
    assert [line for line in report.render(summary).splitlines() if line.startswith("- ")] == [
        f"- {where}: 1 block: this is exact attention",
        f"- {where}: 1 block for 4 devices: 3 idle in phase 1",
    ]


def test_unscored_questions_are_counted_and_not_averaged(tmp_path: pathlib.Path) -> None:
    (some,) = report.summarise([entry(tmp_path, DENSE, [1, None, None, 0])], devices=1)
    assert (some["n"], some["score"]) == (4, 50.0)
    assert some["notes"] == "2 of 4 questions have no reference answer"
    assert (some["score_low"], some["score_high"]) == tuple(
        round(100 * bound, 2) for bound in intervals.of_mean([1, 0])
    )
    (none,) = report.summarise([entry(tmp_path, DENSE, [None])], devices=1)
    assert none["score"] is none["score_low"] is None
    assert "| - |" in " ".join(report.render([none]).split())


def test_metrics_are_named(tmp_path: pathlib.Path) -> None:
    entries = [
        entry(tmp_path, row, [1], task=task, metric=metric)
        for task, metric in (("a", "f1"), ("b", "string_match_all"), ("c", "f1"))
        for row in (DENSE, STAR)
    ]
    table = report.write(str(tmp_path), entries, devices=1, peak_memory=None)
    assert table.endswith("\n\nMetrics: f1 of a, c; string_match_all of b.")
    with open(tmp_path / "summary.csv", newline="") as file:
        assert [row["metric"] for row in csv.DictReader(file)][::2] == [
            "f1",
            "string_match_all",
            "f1",
        ]
    one = report.write(str(tmp_path), entries[:2], devices=1, peak_memory=None)
    assert one.endswith("\n\nMetric: f1.")


def test_the_files_hold_what_is_printed(tmp_path: pathlib.Path) -> None:
    entries = [
        entry(tmp_path, DENSE, [1, 0], length=length) for length in (512, 1024, None)
    ]  # fmt: skip
    table = report.write(str(tmp_path), entries, devices=1, peak_memory=None)
    assert (tmp_path / "summary.md").read_text() == f"# Results\n\n{table}\n"
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["length"] for row in rows] == ["512", "1024", ""]
    assert {row["score"] for row in rows} == {"50.0"}
    assert {row["score_low"] for row in rows} == {"9.45"}
    assert {row["diff"] for row in rows} == {""}
    # It is a Markdown table: as many cells in each line as in the head.
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) <= set("|-: ")
    assert "vs exact" not in lines[0]  # there is nothing to compare
    assert "prefill tok/s" in lines[0] and "s/token" in lines[0] and "compile s" in lines[0]
    assert "memory" not in table
    known = report.write(str(tmp_path), entries, devices=1, peak_memory=3 * 2**29)
    assert known == f"{table}\n\nPeak memory of a device in this run: 1.50 GiB."
    assert (tmp_path / "summary.md").read_text() == f"# Results\n\n{known}\n"
