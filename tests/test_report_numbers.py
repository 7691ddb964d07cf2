"""A report's numbers, against numpy by hand: differences, means, what is recommended, files."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import run_folders

from star_jax.eval import intervals, load
from star_jax.eval.published import RULER_TASKS
from star_jax.eval.reporting import (
    answers,
    files,
    maps,
    paired,
    recommend,
    results,
)
from star_jax.eval.reporting.lines import Point, front
from star_jax.eval.reporting.results import Mean, Result


def found(folder: pathlib.Path) -> list[Result]:
    return results.results(answers.read(str(folder)))


def mean(means: Sequence[Mean], setting: str, length: int) -> Mean:
    (one,) = (m for m in means if (m.setting, m.length) == (setting, length))
    return one


def test_a_bootstrap_by_hand() -> None:
    """Drawn question by question, as the method is told, it gives the same interval."""
    rng = np.random.default_rng(7)
    tasks = []
    for n in (60, 25):
        first = rng.integers(0, 6, n) / 5
        tasks.append(
            list(zip(first, np.clip(first - rng.integers(-1, 3, n) / 5, 0, 1), strict=True))
        )
    one = paired.difference(tasks)
    assert one is not None and one.is_resampled and (one.n, one.tasks) == (85, 2)
    each = [np.asarray([a - b for a, b in pairs]) for pairs in tasks]
    assert one.mean == pytest.approx((each[0].mean() + each[1].mean()) / 2)
    drawn = [
        np.mean([d[rng.integers(0, len(d), len(d))].mean() for d in each]) for _ in range(10_000)
    ]
    assert (one.low, one.high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.004
    )
    assert paired.difference(tasks) == one  # the seed is fixed


def test_few_questions_that_differ_have_a_wide_interval() -> None:
    ties = [(1.0, 1.0)] * 30
    one = paired.difference([ties])
    assert one is not None and not one.is_resampled
    assert (one.low, one.high) == intervals.of_difference([1.0] * 30, [1.0] * 30)
    two = paired.difference([ties, [(0.0, 0.0)] * 10])
    assert two is not None and two.low is not None and two.high is not None
    # 2 tasks: worth 4 / (1/30 + 1/10) = 30 questions, none of which falls: 1 - 0.0125 ** (1 / 30).
    assert paired.effective([30, 10]) == pytest.approx(30)
    assert -two.low == pytest.approx(two.high) == pytest.approx(1 - 0.0125 ** (1 / 30))
    assert paired.difference([[], []]) is None
    single = paired.difference([[(1.0, 0.0)]])
    assert single is not None and (single.mean, single.low, single.n) == (1.0, None, 1)


@pytest.mark.parametrize(
    "tasks",
    [
        [[(1.0, 0.0)]] * 10 + [[(0.0, 1.0)]] * 10,  # a question each: nothing to draw from
        [[(0.0, 1.0)] * 20],  # all alike
        [[(0.0, 1.0)] * 20, [(1.0, 1.0)] * 20],
    ],
)
def test_no_interval_has_no_width(tasks: list[paired.Pairs]) -> None:
    one = paired.difference(tasks)
    assert one is not None and one.low is not None and one.high is not None
    assert not one.is_resampled and one.low < one.mean + 1e-9 and one.low < one.high


def test_means_over_tasks_by_hand(tmp_path: pathlib.Path) -> None:
    """Two tasks, one with an answer that has no reference; dense and star."""
    table: dict[tuple[str, str], list[Any]] = {
        ("dense", "vt"): [1.0, 0.6, 1.0, 0.8],
        ("star", "vt"): [0.8, 0.6, 0.4, 0.8],
        ("dense", "fwe"): [1.0, None, 1.0, 0.0],
        ("star", "fwe"): [1.0, None, 0.0, 0.0],
    }
    folder = run_folders.write(
        tmp_path / "run",
        lambda row, task, length, i: table[row.partition("_")[0], task][i],
        tasks=("vt", "fwe"),
        lengths=(512,),
    )
    all_ = found(folder)
    one = {(r.cell.row["kind"], r.cell.task): r for r in all_}
    assert one["dense", "vt"].score == pytest.approx(85.0)
    assert one["star", "fwe"].score == pytest.approx(100 / 3)
    assert (one["star", "fwe"].n, one["star", "fwe"].nulls) == (3, 3)
    diff = one["star", "vt"].diff
    assert diff is not None and diff.mean == pytest.approx(-20.0) and diff.n == 4
    assert diff.low is not None and diff.high is not None
    by_hand = intervals.of_difference(table["star", "vt"], table["dense", "vt"])
    assert (diff.low, diff.high) == pytest.approx(tuple(100 * bound for bound in by_hand))
    assert one["dense", "vt"].diff is None
    means = results.means(all_)
    star = mean(means, "star b=L/4 a=b", 512)
    assert star.score == pytest.approx((65.0 + 100 / 3) / 2)
    assert (star.n, star.name, star.is_whole) == (7, "mean of 2 tasks", True)
    worth = 4 / (1 / 4 + 1 / 3)
    low, high = intervals.of_weighted_mean(star.score / 100, worth)
    assert (star.low, star.high) == pytest.approx((100 * low, 100 * high))


def test_what_a_mean_may_be_called(tmp_path: pathlib.Path) -> None:
    """RULER only with its 13 tasks; a substitute is in no mean of that name."""

    def score(row: str, task: str, length: int | None, index: int) -> float:
        return float("[" not in task)

    cases = {
        "all": (RULER_TASKS, "RULER, mean of its 13 tasks", 100.0),
        "more": (
            (*RULER_TASKS, "niah_single_2 [substitute]"),
            "RULER, mean of its 13 tasks",
            100.0,
        ),
        "fewer": (RULER_TASKS[1:], "mean of 12 tasks", 100.0),
        "labelled": (
            (*RULER_TASKS[1:], "niah_single_1 [substitute]"),
            "mean of 13 tasks, 1 of them substitutes or generated",
            1200 / 13,
        ),
    }
    for name, (tasks, called, value) in cases.items():
        folder = run_folders.write(
            tmp_path / name, score, tasks=tasks, lengths=(512,), samples=1, kind="dense"
        )
        (one,) = results.means(found(folder))
        assert one.name == called and one.score == pytest.approx(value)


def test_an_unfinished_run_has_no_mean_of_ruler(tmp_path: pathlib.Path) -> None:
    for name, answered in (("few", 3), ("uneven", 4)):
        folder = run_folders.write(
            *(tmp_path / name, lambda *args: 1.0),
            tasks=RULER_TASKS,
            lengths=(512,),
            answered=answered,
        )
        if name == "uneven":
            path = next(folder.rglob("dense/512/qa_2.jsonl"))
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
        names = {one.setting: one.name for one in results.means(found(folder))}
        assert names["dense"] == "mean of 13 tasks", name


def test_tasks_that_have_not_begun_are_in_no_mean(tmp_path: pathlib.Path) -> None:
    """Of two tasks one has no answers at 1024 yet: a mean there is of something else."""
    folder = run_folders.write(tmp_path / "run", lambda *args: 1.0, tasks=("vt", "fwe"))
    for path in folder.rglob("1024/fwe.jsonl"):
        path.unlink()
    means = results.means(found(folder))
    assert {(one.length, one.is_whole, one.of) for one in means} == {
        (512, True, 2),
        (1024, False, 2),
    }


def test_perplexities_are_in_no_mean(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(
        tmp_path,
        lambda row, task, length, i: (
            [8.0, 2.0][i] * (1 if row == "dense" else 1.5) if task == "prose" else 1.0
        ),
        tasks=("vt", "prose"),
        lengths=(512,),
        samples=2,
        metric={"prose": "perplexity"},
    )
    all_ = found(folder)
    prose = next(r for r in all_ if r.cell.task == "prose")
    # Of five and six tokens; star's is half as high again.
    expected = math.exp((5 * math.log(8) + 6 * math.log(2)) / 11)
    assert prose.score == pytest.approx(expected) and prose.n == 2
    assert prose.low is not None and prose.high is not None
    assert prose.low < expected < prose.high
    star = next(r for r in all_ if r.cell.task == "prose" and not r.is_exact)
    assert star.score == pytest.approx(1.5 * expected)
    assert star.diff is not None and star.diff.mean == pytest.approx(expected / 2)
    assert prose.diff is None and prose.published is None
    assert {one.n for one in results.means(all_)} == {2}
    advice = recommend.advise(all_[0].run, all_, tolerance=100.0)
    assert advice.best is not None and advice.best.diff.tasks == 1


def test_results_csv_is_tidy(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(
        tmp_path, lambda *args: 0.5, answered=3, block_size="L/4,128", halo="0,b/2"
    )
    all_ = found(folder)
    table = list(csv.DictReader(io.StringIO(files.results_csv(all_))))
    assert len(table) == len(all_) == 2 * 1 + (2 + 4)
    line = next(line for line in table if line["row"] == "star_b128_a128_h64")
    assert line["setting"] == "star b=L/4 a=b h=b/2 | star_b128_a128_h64"  # the same at 512
    assert (line["n"], line["samples"], line["score"], line["halo"]) == ("3", "4", "50.0", "64")
    assert (line["diff"], line["n_diff"], line["published"]) == ("0.0", "3", "")
    assert float(line["diff_low"]) < 0 < float(line["diff_high"])
    assert float(line["time_compile"]) == 2.0


def test_load_gives_plain_records(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(tmp_path / "run", run_folders.plausible, samples=3)
    records = load(folder)
    assert len(records) == 2 * 2 * 3
    one = next(r for r in records if r["row"] == "star_b256_a256" and r["index"] == 2)
    assert (one["suite"], one["task"], one["length"]) == ("ruler", "niah_single_1", 1024)
    assert (one["kind"], one["is_exact"], one["setting"]) == ("star", False, ["star b=L/4 a=b"])
    assert (one["block_size"], one["anchor_size"], one["halo"]) == (256, 256, None)
    tokens, (start, end) = one["n_context_tokens"], one["needles"][0]
    assert one["depth"] == pytest.approx((start + end) / 2 / tokens)
    dense = next(r for r in records if r["row"] == "dense" and r["index"] == 2)
    assert dense["block_size"] is None
    assert "input_context" not in one


def test_depths_are_binned_by_hand() -> None:
    grid, counts = maps.binned([0.0, 0.04, 0.1, 0.55, 1.0], [1.0, 0.0, 1.0, 0.5, 0.0])
    assert counts.tolist() == [2, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert np.nan_to_num(grid, nan=-1).tolist() == [50, 100, -1, -1, -1, 50, -1, -1, -1, 0]
    assert maps.block_edges(256, 1000) == [0.256, 0.512, 0.768]
    assert maps.block_edges(500, 1000) == [0.5]
    assert maps.block_edges(1024, 1000) == []


def test_the_pareto_front() -> None:
    points = {
        name: Point(float(time), float(score), 0.0, 100.0)
        for name, time, score in [
            ("slow", 9, 90), ("beaten", 5, 70), ("fast", 1, 50), ("equal", 2, 50), ("good", 4, 80),
        ]
    }  # fmt: skip
    assert front(points) == ["fast", "good", "slow"]
