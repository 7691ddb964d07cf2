"""Each criterion for fewer keys is its formula, which `key_scores` writes out."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import key_scores
import numpy as np
import pytest

from star_jax.models import LayerSpec
from star_jax.models.rope import Rope
from star_jax.prefill import criteria
from star_jax.prefill.criteria import CRITERIA, Block
from star_jax.prefill.keeping import Keep, Slots
from star_jax.prefill.selecting import chosen

SIZE, HEADS, GROUP, WIDTH = 96, 2, 3, 16
VALID = (96, 50, 3)
STARTS = (0, 96, 480)


@functools.cache
def block(queries: float = 1, keys: float = 1) -> Block:
    """Keys, as models have them, are not centred; what lies in the padding is large.

    queries, keys: what they are multiplied by.
    """
    rng = np.random.default_rng(0)

    def draw(heads: int) -> Any:
        x = rng.normal(size=(len(VALID), SIZE, heads, WIDTH)) + rng.normal(size=(heads, WIDTH))
        return np.where(np.arange(SIZE)[:, None, None] < at[:, None, None, None], x, 30)

    at = np.asarray(VALID)
    q, k, v = (draw(heads).astype(np.float32) for heads in (HEADS * GROUP, HEADS, HEADS))
    q, k = q * np.float32(queries), k * np.float32(keys)
    rope = Rope(rope_type="default", theta=1e4, partial_rotary_factor=0.5, attention_factor=1.2)
    spec = LayerSpec(index=1, scale=0.3, rope=rope)
    heads = np.arange(HEADS, dtype=np.int32)
    rest = (np.asarray(STARTS, np.int32), np.asarray(VALID, np.int32), heads)
    return Block(spec, *map(jnp.asarray, (q, k, v, *rest)))


LARGE = 15  # queries of so many times the size, whose logits have a standard deviation of 36


@pytest.mark.parametrize(
    ("criterion", "queries"),
    [*((name, 1) for name in CRITERIA), ("attention", LARGE), ("expected", LARGE)],
)
def test_a_criterion_is_its_formula(criterion: str, queries: float, monkeypatch: Any) -> None:
    monkeypatch.setattr(criteria, "CHUNK", 40)
    how: Any = {"compactor": {"chunk": 40}, "attention": {"block": SIZE}}.get(criterion, {})
    given = block(queries)
    spec, *arrays = given
    found = jax.jit(lambda *x: CRITERIA[criterion](Block(spec, *x)))(*arrays)
    assert found.shape == (len(VALID), SIZE, HEADS)
    for row, valid in enumerate(VALID):
        q, k, v = (np.asarray(x[row, :valid], np.float64) for x in (given.q, given.k, given.v))
        formula: Any = functools.partial(key_scores.FORMULAS[criterion], **how)
        expected = formula(q, k, v, STARTS[row], given.spec)
        actual = np.asarray(found[row, :valid], np.float64)
        if criterion == "random":
            expected = expected / 2**24
        if criterion == "attention":  # how far above the others the last ones are says nothing
            last = min(valid, SIZE // 8)
            assert actual[:-last].max(initial=0) < actual[-last:].min()
            assert (np.diff(actual[-last:], axis=0) > 0).all()
            actual, expected = actual[:-last], expected[:-last]
        assert actual.shape == expected.shape
        # Three tokens leave compactor a matrix that is singular but for its ridge.
        tolerance = 1e-3 if criterion == "compactor" else 2e-5
        assert np.abs(actual - expected).max(initial=0) < tolerance * queries**2
        if valid == SIZE:
            assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("criterion", ["attention", "expected"])
def test_scores_of_large_logits_do_not_tie(criterion: str) -> None:
    """Else the earliest keys stay."""
    scores = np.asarray(CRITERIA[criterion](block(LARGE)))[0]
    for head in range(HEADS):
        assert len(np.unique(scores[:, head])) > 0.95 * SIZE


@pytest.mark.parametrize("keys", [1e3, 1e6])
def test_very_large_keys_have_scores(keys: float) -> None:
    """Also in blocks of fewer tokens than a key has features."""
    found = np.asarray(criteria.compactor(block(1, keys)))
    for row, valid in enumerate(VALID):
        assert np.isfinite(found[row, :valid]).all()


def test_nan_is_the_lowest_score() -> None:
    """Neither the anchor nor what has a score goes for it; infinities are no anchor."""
    slots = Slots(Keep(share=0.5, criterion="norm"), block=8, anchor=2, devices=1)
    assert (slots.shared, slots.keys) == (1, 4)
    scores = jnp.asarray([0, 0, jnp.nan, 3, jnp.inf, -jnp.inf, 1, jnp.nan])[None, :, None]
    start, valid, kept = (jnp.asarray(x, jnp.int32) for x in ([0], [8], [4]))
    assert chosen(scores, start, valid, kept, slots)[0, :, 0].tolist() == [1, 3, 4, 6]
    found = chosen(jnp.full_like(scores, jnp.nan), start, valid, kept, slots)
    assert found[0, :, 0].tolist() == [1, 2, 3, 4]


def test_all_have_a_formula() -> None:
    assert CRITERIA.keys() == key_scores.FORMULAS.keys()


def test_layers_without_positions() -> None:
    """Of those there is no RoPE to take back."""
    given = block()
    spec = dataclasses.replace(given.spec, rope=None)
    first = Block(spec, *(x[:1] for x in given[1:-1]), given.heads)  # type: ignore[call-arg]
    q, k, v = (np.asarray(x[0], np.float64) for x in first[1:4])
    for criterion in ("compactor", "expected"):
        found = CRITERIA[criterion](first)
        expected = key_scores.FORMULAS[criterion](q, k, v, 0, spec)
        assert np.abs(np.asarray(found)[0] - expected).max() < 1e-4
