"""The Llama port equals `transformers`, for every variant, in every spelling of its config."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import pytest

import star_jax
from star_jax import checkpoint
from star_jax.array_typing import Keys, Queries, Values
from star_jax.attention import reference
from star_jax.models import config as model_config
from star_jax.models.llama import Llama

TOLERANCE = 1e-4
LENGTH = 80  # beyond the 32 original positions of the variants with scaled frequencies


class Causal:
    """Plain causal attention over the tokens at hand; no state."""

    def start(self, layer: int, k: Keys, v: Values, state: None) -> None:
        return state

    def __call__(
        self, layer: int, q: Queries, k: Keys, v: Values, state: None
    ) -> tuple[Queries, None]:
        scale = q.shape[-1] ** -0.5
        return reference.partial_attention(q, k, v, causal=True, scale=scale).out, state


@jax.jit
def forward(model: Llama, tokens: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = model.run(tokens, positions, Causal(), None)
    return model.logits(hidden)


def logits(model: Llama, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(forward(model, jnp.asarray(tokens)))


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
    assert difference(logits(model, tokens()), llamas.logits(oracle, tokens())) < TOLERANCE


def test_the_oracle_would_notice_a_wrong_frequency() -> None:
    """That the tolerance can fail: what an ignored field does to the logits is far above it."""
    fields = llamas.VARIANTS["llama-3.1"]
    base = llamas.logits(llamas.build(fields), tokens())
    changes: list[dict[str, Any]] = [{"rope_theta": 10000.0}, {"rope_scaling": None}]
    for change in changes:
        other = llamas.logits(llamas.build({**fields, **change}), tokens())
        assert difference(other, base) > 100 * TOLERANCE, change
        first = slice(0, 32)
        assert difference(other[:, first], base[:, first]) > 100 * TOLERANCE, change
