"""Published scores as data: sums that the papers print, and what they stand beside."""

import statistics

import pytest

from star_jax.eval import published
from star_jax.eval.published import RULER_TASKS, beside, find, mean_beside

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
DENSE = {"kind": "dense", "is_exact": True}


def star(block: int, anchor: int, **more: object) -> dict[str, object]:
    how = {"block_size": block, "anchor_size": anchor}
    return {"kind": "star", "is_exact": False, **how, **more}


@pytest.mark.parametrize("kind", ["exact", "star"])
@pytest.mark.parametrize("length", [16384, 32768, 65536, 131072])
def test_the_tasks_of_a_length_have_the_published_mean(kind: str, length: int) -> None:
    """Tables 9 and 10 of the first version against table 2 of the last: typed off apart."""
    found = [one for one in find(model=LLAMA, suite="ruler", length=length) if one.kind == kind]
    tasks = {one.task: one.score for one in found if one.source.startswith("arXiv 2411.17116v1")}
    assert tasks.keys() == set(RULER_TASKS)
    (mean,) = (one.score for one in found if one.task == "mean")
    assert statistics.fmean(tasks.values()) == pytest.approx(mean, abs=0.0051)


def test_the_mean_of_the_six_tasks_that_need_no_files() -> None:
    six = ["niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"]
    exact = [
        mean_beside(six, DENSE, model=LLAMA, suite="ruler", length=1024 * k)
        for k in (16, 32, 64, 128)
    ]
    ours = [
        mean_beside(six, star(256 * k, 256 * k), model=LLAMA, suite="ruler", length=1024 * k)
        for k in (16, 32, 64, 128)
    ]
    assert exact == pytest.approx([93.74, 84.54, 79.75, 64.69], abs=0.0051)
    assert ours == pytest.approx([94.20, 88.54, 78.76, 63.75], abs=0.0051)


@pytest.mark.parametrize("kind", ["exact", "star", "streaming", "minference"])
def test_infinitebench_has_its_published_mean(kind: str) -> None:
    found = [one for one in find(model=LLAMA, suite="infinitebench") if one.kind == kind]
    tasks = {one.task: one.score for one in found if one.task != "mean"}
    (mean,) = (one.score for one in found if one.task == "mean")
    assert tasks.keys() == published.MEANS["infinitebench", "mean"]
    assert statistics.fmean(tasks.values()) == pytest.approx(mean, abs=0.0051)


def test_a_figure_stands_beside_the_same_thing_only() -> None:
    found = find(model=LLAMA, suite="ruler", task="vt", length=16384)
    assert {one.kind: one.score for one in found} == {"exact": 99.56, "star": 91.96}

    def score(row: dict[str, object]) -> float | None:
        figure = beside(found, row)
        return None if figure is None else figure.score

    assert score(DENSE) == 99.56
    assert score({"kind": "ring", "is_exact": True}) == 99.56
    assert score(star(4096, 4096)) == 91.96
    assert score(star(4096, 0)) is score(star(2048, 2048)) is None
    assert score(star(4096, 4096, halo=64)) is None
    assert score(star(4096, 4096, correction="delta", stride=64)) is None
    assert find(model=LLAMA, suite="ruler", task="vt", length=4096) == []
    assert find(model=LLAMA, suite="ruler", task="vt [substitute]", length=16384) == []
    assert find(model=LLAMA, suite="jsonl", task="vt", length=16384) == []


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("Llama-3.1-8B-Instruct", True),
        ("/models/Meta-Llama-3.1-8B-Instruct/", True),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", True),
        ("meta-llama/Llama-3.1-8B", False),
        ("meta-llama/Llama-3.2-8B-Instruct", False),
        ("checkpoints/needle", False),
    ],
)
def test_a_checkpoint_is_known_by_its_name(model: str, same: bool) -> None:
    found = find(model=model, suite="ruler", task="vt", length=16384)
    assert [one.score for one in found] == ([99.56, 91.96] if same else [])


def test_ablations_and_other_models() -> None:
    """A row has what its kind has; what a table does not state is not asked for."""
    niah = RULER_TASKS[:8]
    none = mean_beside(niah, star(16384, 0), model=LLAMA, suite="ruler", length=65536)
    assert none == 60.11
    random = star(32768, 32768, content="first", positions="random") | {"kind": "anchors"}
    assert mean_beside(niah, random, model=LLAMA, suite="ruler", length=131072) == 97.16
    previous = star(32768, 32768, content="previous", positions="first") | {"kind": "anchors"}
    assert mean_beside(niah, previous, model=LLAMA, suite="ruler", length=131072) == 96.13
    streaming = {"kind": "streaming", "is_exact": False, "sinks": 1000, "window": 8000}
    assert mean_beside(RULER_TASKS, streaming, model=LLAMA, suite="ruler", length=65536) == 26.2
    assert mean_beside(RULER_TASKS[1:], streaming, model=LLAMA, suite="ruler", length=65536) is None
    large = mean_beside(
        *(RULER_TASKS, star(4096, 4096)),
        model="Llama-3.1-70B-Instruct",
        suite="ruler",
        length=16384,
    )
    assert large == pytest.approx(95.09 - 2.71)
    # 16K of BABILong is 16384 tokens in some files and 16000 in others.
    qa = [f"qa{i}" for i in range(1, 6)]
    for length in (16000, 16384):
        row = star(length // 4, length // 4)
        assert mean_beside(qa, row, model=LLAMA, suite="babilong", length=length) == 59.8
    # InfiniteBench's block size is not stated: the anchor is a whole block.
    tasks = sorted(published.MEANS["infinitebench", "mean"])
    where = {"model": LLAMA, "suite": "infinitebench", "length": 131072}
    assert mean_beside(tasks, star(32768, 32768), **where) == pytest.approx(46.51, abs=0.0051)  # type: ignore[arg-type]
    assert mean_beside(tasks, star(32768, 8192), **where) is None  # type: ignore[arg-type]


def test_every_figure_has_a_source_and_can_be() -> None:
    for figure in published.figures():
        assert figure.source and 0 <= figure.score <= 100 and figure.length % 1024 == 0
        block, anchor = figure.how.get("block_size", 0), figure.how.get("anchor_size", 0)
        assert anchor in (0, block) and block <= figure.length / 2
    places = [
        (f.suite, f.model, f.task, f.length, f.kind, tuple(sorted(f.how.items())))
        for f in published.figures()
    ]
    assert len(set(places)) >= len(places) - 1  # the 70B's 64K is in two tables
