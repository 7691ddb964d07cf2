"""The decoder equals `transformers`, for every variant, in every spelling of its config."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import literal
import llamas
import numpy as np
import pytest
import tiny
import torch
import transformers
from flax import nnx
from further import further

import star_jax
from star_jax import checkpoint, models
from star_jax.models import Decoder
from star_jax.prefill.kinds import Kind

TOLERANCE = 1e-4
CLOSE = 1e-5  # of float32 logits; 3e-6 was measured
LENGTH = 96  # beyond the original positions, 64 at most, of variants with scaled frequencies
NEW = 16  # generated tokens, the last of them
SEED = 2  # of weights with which every choice is clear


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 160, (2, LENGTH))


def load(directory: pathlib.Path) -> Decoder:
    config = models.read(directory)
    return checkpoint.load(directory, config, mesh=star_jax.make_mesh(), dtype="float32")


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("spelling", ["saved", *further("published", "older")])
@pytest.mark.parametrize("variant", llamas.VARIANTS)
def test_logits_equal_those_of_transformers(
    variant: str, spelling: str, tmp_path: pathlib.Path
) -> None:
    fields = llamas.VARIANTS[variant]
    oracle = llamas.build(fields)
    model = load(llamas.write(tmp_path, oracle, fields, spelling=spelling))
    assert (
        difference(llamas.our_logits(model, tokens()), llamas.their_logits(oracle, tokens()))
        < CLOSE
    )


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_of_every_stored_dtype(stored: torch.dtype, tmp_path: pathlib.Path) -> None:
    """In float32, from weights that were rounded when they were saved."""
    fields = llamas.VARIANTS["llama-3.1"]
    oracle = llamas.build(fields)
    rounded = {name: x.to(stored) for name, x in oracle.state_dict().items()}
    exact = llamas.their_logits(oracle, tokens())
    llamas.write(tmp_path, oracle, fields, state_dict=dict(rounded))
    oracle.load_state_dict({name: x.float() for name, x in rounded.items()})
    expected = llamas.their_logits(oracle, tokens())
    assert (difference(expected, exact) > 10 * CLOSE) == (stored != torch.float32)
    assert difference(llamas.our_logits(load(tmp_path), tokens()), expected) < CLOSE


def test_the_oracle_would_notice_a_wrong_scale_of_attention() -> None:
    fields = llamas.VARIANTS["yarn"]
    base = llamas.their_logits(llamas.build(fields), tokens())
    scaling = {**llamas.YARN_ROPE, "attention_factor": 1.0}
    other = llamas.their_logits(llamas.build({**fields, "rope_scaling": scaling}), tokens())
    assert difference(other, base) > 100 * TOLERANCE


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


def greedy(oracle: transformers.PreTrainedModel, tokens: list[int]) -> tuple[list[int], list[bool]]:
    """What transformers answers, and which choices are so clear that rounding decides none."""
    tokens, clear = list(tokens), []
    for _ in range(NEW):
        last = llamas.their_logits(oracle, np.asarray([tokens]))[0, -1]
        second, first = np.sort(last)[-2:]
        clear.append(bool(first - second > 10 * TOLERANCE * max(1.0, np.abs(last).max())))
        tokens.append(int(last.argmax()))
    return tokens[-NEW:], clear


DENSE, RING, ULYSSES = star_jax.Dense(), star_jax.Ring(), star_jax.Ulysses()
ONE_BLOCK = star_jax.Star(block_size=LENGTH)
# One of each family, with what is its own: logits show the rest.
FAMILIES = (
    "mistral-nemo",
    "qwen2.5-window",
    "qwen3-window",
    "phi4-mini",
    "granite",
    "smollm3-window",
    "olmo2",
    "gemma2",
    "gemma3",
    "mixtral",
    "qwen3-moe",
    "seed-oss",
)
# Their logits show all that is their own.
LIKE_OTHERS = ("mistral-nemo", "qwen2.5-window", "phi4-mini", "granite", "mixtral", "seed-oss")
ENGINES = [
    *((v, DENSE, 4, 2) for v in FAMILIES if v not in LIKE_OTHERS),
    *further(*((v, DENSE, 4, 2) for v in (*LIKE_OTHERS, "llama-3.1"))),
    *further(("llama-3.1", DENSE, 1, 1)),
    ("yarn", RING, 8, 1),
    *further(("llama-2", ULYSSES, 4, 1)),
    ("olmo2", DENSE, 2, 4),  # its keys are normalised over heads that are repeated
    ("mistral-v0.1", RING, 8, 1),
    *further(("mistral-v0.1", ULYSSES, 2, 1)),
    ("qwen2.5-window", RING, 4, 2),  # its window is longer than a device's chunks
    # Its blocks are longer than the window, and shorter; all layers have it: this is exact.
    ("mistral-v0.1", star_jax.Star(block_size=4), 4, 1),
    *further(("mistral-v0.1", star_jax.Star(block_size=9), 4, 1)),
    ("mistral-v0.1", star_jax.Star(block_size=6, halo=3, correction="both", stride=2), 4, 2),
    *further(("mistral-nemo", ONE_BLOCK, 4, 2)),
]


@pytest.mark.parametrize(("variant", "attention", "context", "tensor"), ENGINES)
def test_the_engine_answers_as_transformers_does(
    variant: str, attention: Kind, context: int, tensor: int, tmp_path: pathlib.Path
) -> None:
    fields = llamas.VARIANTS[variant]
    oracle = llamas.build(fields, seed=SEED)
    engine = star_jax.Engine.from_pretrained(
        str(llamas.write(tmp_path, oracle, fields)),
        mesh=star_jax.make_mesh(context=context, tensor=tensor),
        dtype="float32",
        attention=attention,
    )
    row = tokens()[0, : LENGTH - NEW].tolist()
    encoded = engine.prefill(row[:-10])
    expected = llamas.their_logits(oracle, np.asarray([row]))[0, -10:]
    assert difference(np.asarray(engine.score(encoded, row[-10:])), expected) < TOLERANCE
    answer = engine.generate(encoded, row[-10:], max_new_tokens=NEW, ignore_eos=True)
    chosen, clear = greedy(oracle, row)
    sure = [*clear, False].index(False)  # up to the first choice that rounding may decide
    assert sure == NEW or variant != "llama-3.1"  # of seed SEED
    assert sure > NEW // 2  # or little is compared
    assert isinstance(answer, star_jax.Answer)
    assert answer.tokens[:sure] == chosen[:sure]


@pytest.mark.parametrize(
    "variant", [v for v in FAMILIES if v not in LIKE_OTHERS] + further(*LIKE_OTHERS)
)
def test_star_equals_the_literal_algorithm_in_every_family(
    variant: str, tmp_path: pathlib.Path
) -> None:
    fields = llamas.VARIANTS[variant]
    directory = llamas.write(tmp_path, llamas.build(fields, seed=SEED), fields)
    # A tangent does not know of soft caps.
    how = "delta" if fields.get("attn_logit_softcapping") else "both"
    star = star_jax.Star(block_size=12, anchor_size=5, halo=4, correction=how, stride=4)
    engine = star_jax.Engine.from_pretrained(
        str(directory),
        mesh=star_jax.make_mesh(context=4, tensor=2),
        dtype="float32",
        attention=star,
    )
    row = tokens()[0].tolist()
    logits, k, v = literal.score(load(directory), row[:-9], row[-9:], star)
    encoded = engine.prefill(row[:-9])
    for found, expected in zip(tiny.kept(engine, encoded), (k, v), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert difference(np.asarray(one), np.asarray(other)) < TOLERANCE
    assert difference(np.asarray(engine.score(encoded, row[-9:])), np.asarray(logits)) < TOLERANCE


@pytest.mark.parametrize("variant", ["llama-3", "olmo2", "gemma3"])
def test_norms_round_as_those_of_transformers_do(variant: str) -> None:
    """In bfloat16, where it shows whether x is scaled before it is rounded or after that."""
    fields = llamas.VARIANTS[variant]
    theirs = llamas.build(fields).model.norm.bfloat16()
    x = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x).bfloat16()).float().numpy()
    weight = nnx.Param(jnp.asarray(theirs.weight.detach().float().numpy(), jnp.bfloat16))
    config = models.from_dict(fields)
    found = np.asarray(config.norm(jnp.asarray(x, jnp.bfloat16), weight), np.float32)
    assert (found == expected).mean() > 0.99  # the reciprocal root may be rounded otherwise
    other = dataclasses.replace(config.norm, in_float32=not config.norm_in_float32)
    wrong = np.asarray(other(jnp.asarray(x, jnp.bfloat16), weight), np.float32)
    assert (wrong == expected).mean() < 0.9
