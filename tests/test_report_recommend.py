"""Which setting a report recommends, and which exact row it compares with."""

import pathlib
from typing import Any

import pytest
import run_folders
from test_report_numbers import found

from star_jax.eval.reporting import (
    lines,
    pictures,
    recommend,
    results,
)


def test_a_bound_at_the_tolerance_is_within_it(tmp_path: pathlib.Path) -> None:
    """20 of 100 lost: drawn anew, the bound is -28, and as floats have it a little below."""
    folder = run_folders.write(
        tmp_path / "run",
        lambda row, task, length, i: float(row == "dense" or i >= 20),
        lengths=(512,),
        samples=100,
    )
    all_ = found(folder)
    advice = recommend.advise(all_[0].run, all_, tolerance=28.0)
    (one,) = advice.candidates
    assert one.diff.low is not None and one.diff.low == pytest.approx(-28) and one.diff.low < -28
    assert advice.best is one


def test_the_fastest_setting_within_the_tolerance(tmp_path: pathlib.Path) -> None:
    """L/8 is faster and 2 points worse, L/4 slower and 0.5 worse; 400 questions."""

    def score(row: str, task: str, length: int | None, index: int) -> float:
        worse = {"star_b128_a128": 2, "star_b64_a64": 8}.get(row, 0)
        return float(index >= worse)

    folder = run_folders.write(
        tmp_path / "run", score, lengths=(512,), samples=400, block_size="L/4,L/8"
    )
    all_ = found(folder)
    quarter = next(r for r in all_ if r.cell.name == "star_b128_a128")
    assert quarter.diff is not None and quarter.diff.mean == pytest.approx(-0.5)
    texts = {}
    for tolerance in (0.1, 3.0, 6.0):
        advice = recommend.advise(all_[0].run, all_, tolerance=tolerance)
        texts[tolerance] = (advice.best and advice.best.setting, advice.text)
        assert [one.setting for one in advice.candidates] == ["star b=L/8 a=b", "star b=L/4 a=b"]
        for one in advice.candidates:
            assert one.diff.low is not None
            assert one.is_within(tolerance) == (one.diff.low >= -tolerance)
    assert texts[0.1][0] is None and "No setting is shown" in texts[0.1][1]
    assert "The nearest is star b=L/4 a=b: -0.50 points" in texts[0.1][1]
    assert texts[3.0][0] == "star b=L/4 a=b"
    assert texts[6.0][0] == "star b=L/8 a=b" and "n = 400" in texts[6.0][1]
    tokens = 492 / 1000
    speed_up = tokens / (tokens * (0.3 + 0.5 * 64 / 492))
    assert advice.candidates[0].speed_up == pytest.approx(speed_up, abs=1e-4)
    alone = run_folders.write(tmp_path / "star", score, lengths=(512,), kind="star")
    star = found(alone)
    assert "no row is exact" in recommend.advise(star[0].run, star, tolerance=1.0).text
    dense = found(run_folders.write(tmp_path / "dense", score, lengths=(512,), kind="dense"))
    assert "no other row" in recommend.advise(dense[0].run, dense, tolerance=1.0).text


def test_the_fastest_exact_row_is_what_settings_are_compared_with(tmp_path: pathlib.Path) -> None:
    """Ring takes less than a 100th of star's time, dense more than all of it."""

    def faster(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line | {"time_prefill": line["time_prefill"] / 300} for line in lines]

    folder = run_folders.write(
        tmp_path / "one", lambda *args: 1.0, lengths=(512,), samples=400, kind="dense,ring,star"
    )
    run_folders.change(folder, "ring/512/*.jsonl", faster)
    all_ = found(folder)
    seconds = {r.cell.row["kind"]: r.times["time_prefill"] for r in all_}
    advice = recommend.advise(all_[0].run, all_, tolerance=5.0)
    assert advice.best is not None and advice.best.speed_up < 0.01
    assert advice.best.speed_up == pytest.approx(seconds["ring"] / seconds["star"])
    assert "exact attention (ring) is as fast or faster" in advice.text
    # At another length dense is the fastest.
    folder = run_folders.write(
        tmp_path / "two", lambda *args: 1.0, samples=400, kind="dense,ring,star"
    )
    run_folders.change(folder, "ring/512/*.jsonl", faster)
    run_folders.change(folder, "dense/1024/*.jsonl", faster)
    all_ = found(folder)
    (one,) = recommend.advise(all_[0].run, all_, tolerance=5.0).candidates
    by = {(r.cell.row["kind"], r.cell.length): r.times["time_prefill"] for r in all_}
    fastest = by["ring", 512] + by["dense", 1024]
    assert one.speed_up == pytest.approx(fastest / (by["star", 512] + by["star", 1024]))


def test_only_complete_settings_are_ranked(tmp_path: pathlib.Path) -> None:
    """L/8 is the fastest, but wants a task, or a question: L/4 is taken."""

    def advise(folder: pathlib.Path) -> recommend.Advice:
        all_ = found(folder)
        return recommend.advise(all_[0].run, all_, tolerance=5.0)

    for name, cells, keep in (("task", "vt", 0), ("question", "*", 399)):
        folder = run_folders.write(
            tmp_path / name,
            lambda *args: 1.0,
            tasks=("vt", "fwe"),
            lengths=(512,),
            samples=400,
            block_size="L/4,L/8",
        )
        whole = advise(folder)
        assert whole.best is not None and whole.best.setting == "star b=L/8 a=b"
        assert "ncomplete" not in whole.text and "2 tasks and lengths, n = 800" in whole.text
        shorten = lambda lines, keep=keep: lines[:keep]  # noqa: E731
        run_folders.change(folder, f"star_b64_a64/512/{cells}.jsonl", shorten)
        advice = advise(folder)
        assert advice.best is not None and advice.best.setting == "star b=L/4 a=b"
        assert "Incomplete, and so not ranked: star b=L/8 a=b." in advice.text
        assert [one.is_complete for one in advice.candidates] == [True, False]
        assert not advice.candidates[1].is_within(100.0)
        run_folders.change(folder, f"star_b128_a128/512/{cells}.jsonl", shorten)
        advice = advise(folder)
        assert advice.best is None and "no setting has answers to all" in advice.text
        # What exact attention has no answers to either is not asked for.
        run_folders.change(folder, f"dense/512/{cells}.jsonl", shorten)
        assert advise(folder).best == advise(folder).candidates[0]


def test_perplexities_alone_are_no_scores_to_compare(tmp_path: pathlib.Path) -> None:
    folder = run_folders.write(
        tmp_path, lambda *args: 2.0, tasks=("prose",), metric={"prose": "perplexity"}
    )
    all_ = found(folder)
    text = recommend.advise(all_[0].run, all_, tolerance=1.0).text
    assert text == "No recommendation: there are no scores to compare."
    star = [one for one in all_ if not one.is_exact]
    assert "no row is exact" in recommend.advise(all_[0].run, star, tolerance=1.0).text


def test_runs_are_compared_where_questions_are_the_same(tmp_path: pathlib.Path) -> None:
    def score(row: str, task: str, length: int | None, index: int) -> float:
        return float(index % 2)

    one = found(run_folders.write(tmp_path / "a", score, samples=6))
    same = found(run_folders.write(tmp_path / "b", lambda *args: 1.0, samples=4))
    other = found(run_folders.write(tmp_path / "c", score, samples=6, seed=1))
    diff = results.between(one, same)
    assert diff is not None and diff.mean == pytest.approx(-50.0)
    assert (diff.n, diff.tasks) == (4 * len(one), len(one))
    assert results.between(one, other) is None


@pytest.mark.parametrize("kind", ["dense,ring,star", "ring,dense,star"])
def test_the_exact_row_with_the_most_answers_is_compared_with(
    tmp_path: pathlib.Path, kind: str
) -> None:
    """Ring has 2 of 20 answers: differences are to dense, whichever of them comes first."""

    def score(row: str, task: str, length: int | None, index: int) -> float:
        return float(index % 2 or row != "star_b128_a128")

    folder = run_folders.write(tmp_path, score, lengths=(512,), samples=20, kind=kind)
    run_folders.change(folder, "ring/512/*.jsonl", lambda lines: lines[:2])
    all_ = found(folder)
    one = {r.cell.row["kind"]: r for r in all_}
    exact = [r for r in all_ if r.is_exact]
    (candidate,) = recommend.advise(all_[0].run, all_, tolerance=1.0).candidates
    for diff in (one["star"].diff, results.between([one["star"]], exact), candidate.diff):
        assert diff is not None and diff.n == 20 and diff.mean == pytest.approx(-50.0)
    assert one["dense"].diff is None and one["ring"].diff is not None and one["ring"].diff.n == 2
    run_folders.change(folder, "dense/512/*.jsonl", lambda lines: lines[:2])
    first, second = (r for r in found(folder) if r.is_exact)  # as many: the first one counts
    assert first.diff is None and second.diff is not None


def test_the_line_of_exact_attention_is_of_the_most_answers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folders.write(
        tmp_path,
        lambda row, task, length, index: float(index >= 2),
        lengths=(512,),
        kind="ring,dense,star",
        block_size="L/4,L/8",
    )
    run_folders.change(folder, "ring/512/*.jsonl", lambda lines: lines[:2])
    drawn: list[float | None] = []

    def draw(*args: object, exact: float | None, **options: object) -> bytes:
        drawn.append(exact)
        return b""

    monkeypatch.setattr(lines, "against_size", draw)
    all_ = found(folder)
    pictures.Painter(all_, results.means(all_), lambda run, setting: setting, 40).by_block()
    assert drawn == [50.0]  # ring's is 0
