"""Scores of free text against what the published formulas give, worked out by hand or anew."""

import builtins
import random
import sys
from typing import Any

import pytest

from star_jax.eval import text_metrics
from star_jax.eval.text_metrics import character_f1, exact_match, f1, rouge


@pytest.mark.parametrize(
    ("pred", "outputs", "score"),
    [
        ("Paris", ["paris"], 1),
        (" The  Eiffel-Tower! ", ["eiffeltower"], 1),
        ("in Paris", ["Paris"], 0),
        ("Rome", ["Paris", "rome"], 1),
        ("", ["Paris"], 0),
        ("the", ["Paris"], 0),
        ("a", ["A"], 1),
        ("", ["A"], 0),
        ("...", ["A"], 0),
        ("B", ["A"], 0),
    ],
)
def test_exact_match(pred: str, outputs: list[str], score: float) -> None:
    assert exact_match(pred, outputs) == score


@pytest.mark.parametrize(
    ("pred", "outputs", "score"),
    [
        ("Paris", ["Paris"], 1),
        ("in Paris", ["Paris"], 2 / 3),  # precision 1/2, recall 1
        ("The man, in the park.", ["a man in a park"], 1),
        ("one one one", ["one two"], 2 / 5),  # "one" counts once
        ("red", ["blue", "red green"], 2 / 3),  # precision 1, recall 1/2, of the better
        ("", ["Paris"], 0),
        ("the a an", ["the"], 0),  # nothing is left of either
        ("PARIS paris", ["paris paris"], 1),
        ("theatre", ["the atre"], 0),
    ],
)
def test_f1(pred: str, outputs: list[str], score: float) -> None:
    assert f1(pred, outputs) == pytest.approx(score)


@pytest.mark.parametrize(
    ("pred", "outputs", "score"),
    [
        ("“红楼梦”——", ["红楼梦。"], 1),
        ("《红楼梦》", ["红楼梦"], 6 / 7),  # the published list lacks the opening mark
        ("红\uff0e楼\uff0e梦", ["红楼梦"], 6 / 8),  # and this full stop
        ("是 红 楼", ["红楼梦"], 2 / 3),
        ("林黛玉", ["贾宝玉", "黛玉"], 4 / 5),
        ("", ["贾宝玉"], 0),
        ("\uff01\uff1f", ["…"], 0),
        ("ABC", ["abc"], 1),
    ],
)
def test_character_f1(pred: str, outputs: list[str], score: float) -> None:
    assert character_f1(pred, outputs) == pytest.approx(score)


def common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, by its recursion."""
    table = {(i, j): 0 for i in range(len(a) + 1) for j in range(len(b) + 1)}
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            same = table[i - 1, j - 1] + 1
            table[i, j] = same if x == y else max(table[i - 1, j], table[i, j - 1])
    return table[len(a), len(b)]


def test_rouge_l_is_the_published_formula() -> None:
    rng = random.Random(0)
    for _ in range(20):
        a, b = (rng.choices("red green blue one two".split(), k=rng.randint(1, 9)) for _ in "ab")
        n = common(a, b)
        expected = 2 * n / (len(a) + len(b))
        assert rouge(" ".join(a), [" ".join(b)], "rougeL") == pytest.approx(expected)
        assert rouge(" ".join(a), [" ".join(b)]) == pytest.approx(expected)  # of one sentence


def test_rouge_lsum_goes_by_lines() -> None:
    pred, output = "the cat sat\nthe dog ran", "the dog ran\nthe cat sat"
    assert rouge(pred, [output]) == 1
    assert rouge(pred, [output], "rougeL") == 0.5
    assert rouge(pred, [output], "rouge1") == 1
    assert rouge("a b c", ["a b d"], "rouge2") == 0.5
    assert rouge("", [output]) == 0
    assert rouge(pred, ["nothing like it", output]) == 1  # the best counts
    assert rouge("running", ["runs"]) == 0  # not stemmed


def test_nothing_to_compare_with_is_refused() -> None:
    for metric in (exact_match, f1, character_f1, rouge):
        with pytest.raises(ValueError, match="nothing to compare with"):
            metric("x", [])
    with pytest.raises(ValueError, match="kind='rougeX' is unknown"):
        rouge("x", ["x"], "rougeX")


def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("rouge_score"):
            raise ImportError(f"No module named {name!r}")
        return load(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "rouge_score", raising=False)
    text_metrics._scorer.cache_clear()
    with pytest.raises(ValueError, match=r"rouge-score .*: pip install 'star-jax\[suites\]'$"):
        text_metrics.check_rouge()
