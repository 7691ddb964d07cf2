"""The Llama port equals `transformers`, for every variant, in every spelling of its config."""

import pathlib
from typing import Any

import llamas
import numpy as np
import pytest

import star_jax
from star_jax import checkpoint
from star_jax.models import config as model_config

TOLERANCE = 1e-4
LENGTH = 80  # beyond the 32 original positions of the variants with scaled frequencies


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 160, (2, LENGTH))


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("spelling", llamas.SPELLINGS)
@pytest.mark.parametrize("variant", llamas.VARIANTS)
def test_logits_equal_those_of_transformers(
    variant: str, spelling: str, tmp_path: pathlib.Path
) -> None:
    fields = llamas.VARIANTS[variant]
    oracle = llamas.build(fields)
    directory = llamas.write(tmp_path, oracle, fields, spelling=spelling)
    config = model_config.read(directory)
    model = checkpoint.load(directory, config, mesh=star_jax.make_mesh(), dtype="float32")
    assert (
        difference(llamas.our_logits(model, tokens()), llamas.their_logits(oracle, tokens()))
        < TOLERANCE
    )


def test_the_oracle_would_notice_a_wrong_frequency() -> None:
    """That the tolerance can fail: what an ignored field does to the logits is far above it."""
    fields = llamas.VARIANTS["llama-3.1"]
    base = llamas.their_logits(llamas.build(fields), tokens())
    changes: list[dict[str, Any]] = [{"rope_theta": 10000.0}, {"rope_scaling": None}]
    for change in changes:
        other = llamas.their_logits(llamas.build({**fields, **change}), tokens())
        assert difference(other, base) > 100 * TOLERANCE, change
        first = slice(0, 32)
        assert difference(other[:, first], base[:, first]) > 100 * TOLERANCE, change
