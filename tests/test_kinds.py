"""Kinds of attention by name, what each says of itself, and that nobody asks which one it is."""

import pathlib
import re
from typing import Any

import pytest
import tiny

import star_jax
from star_jax import Dense, Ring, Star, Ulysses
from star_jax.advice import Advice
from star_jax.eval.rows import Row
from star_jax.prefill import kinds

ROOT = pathlib.Path(__file__).parents[1]
EACH: list[Any] = [Dense(), Ring(), Ulysses(), Star(block_size=64, anchor_size=32)]
each = pytest.mark.parametrize("kind", EACH, ids=lambda kind: kind.name)


@each
def test_a_kind_is_found_by_its_name_and_made_with_its_sizes(kind):
    assert isinstance(kind, kinds.Kind)
    assert kinds.KINDS[kind.name](**kind.sizes) == kind
    assert kind.is_exact == (not kind.sizes)
    assert kind.name == type(kind).__name__.lower()


def test_rows_of_results_are_named_by_kind_and_sizes():
    assert [Row(kind).name for kind in EACH] == ["dense", "ring", "ulysses", "star_b64_a32"]


@each
def test_advice_is_of_a_kind_alone(kind):
    mesh, config = star_jax.make_mesh(context=4), tiny.config()
    found = kind.advice([100, 30], config, mesh)
    if kind.is_exact:
        assert found == []
        return
    idle, exact = found
    assert idle.startswith("2 block(s) of 64 tokens for 4 devices") and "2 idle" in idle
    assert exact.startswith("100 tokens are 2 block(s) of 64: exact attention would be as fast")
    assert kind.advice([256, 30], config, mesh) == []


def test_advice_is_a_warning_of_its_own_class():
    mesh = star_jax.make_mesh(context=2)
    engine = star_jax.Engine(tiny.model(), mesh=mesh, attention=Star(block_size=64))
    with pytest.warns(Advice, match="1 idle") as found:
        engine.prefill(tiny.ids(20))
    assert {warning.category for warning in found} == {Advice}


def test_nobody_asks_which_kind_it_is():
    """What depends on the kind is a method or a field of it; of warnings, their class."""
    asks = re.compile(r"isinstance\([^)]*\b(Star|Dense|Ring|Ulysses)\b|type\(\w*\.?attention\)")
    silences = re.compile(r"filterwarnings\([^)]*message")
    for folder in ("star_jax", "eval", "benchmarks", "models", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert not asks.search(text), file
            assert not silences.search(text), file
