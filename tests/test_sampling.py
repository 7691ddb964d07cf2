"""How tokens are chosen: against NumPy, against transformers' processors, and by counting draws."""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
import transformers

from star_jax import Sampling
from star_jax.generate import sampling

VOCAB, DRAWS = 40, 20000
PROMPT = 0x0123456789ABCDEF
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 2.5},
    "top_k": {"top_k": 5},
    "top_k=1": {"top_k": 1},
    "top_k beyond the vocabulary": {"top_k": 10**12},
    "top_p": {"top_p": 0.6},
    "top_p, hardly any": {"top_p": 1e-6},
    "min_p": {"min_p": 0.2},
    "min_p=1": {"min_p": 1.0},
    "penalty": {"repetition_penalty": 1.7},
    "reward": {"repetition_penalty": 0.6},
    "all": {
        "temperature": 1.4,
        "top_k": 12,
        "top_p": 0.8,
        "min_p": 0.1,
        "repetition_penalty": 1.3,
    },
}


TIED = np.asarray([0, 2, 2, 2, 2, -np.inf, 1, 1, *[-9.0] * (VOCAB - 8)], np.float32)


@functools.cache
def logits() -> np.ndarray:
    return np.random.default_rng(3).normal(size=VOCAB).astype(np.float32) * 2


SEEN = [0, 3, 7, 19, 22]


def probabilities(
    scores: np.ndarray,
    seen: list[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> np.ndarray:
    """Straightforward: one token after the other, in float64."""
    x = scores.astype(np.float64).copy()
    for token in seen:
        x[token] = x[token] / repetition_penalty if x[token] > 0 else x[token] * repetition_penalty
    x /= temperature
    order = sorted(range(len(x)), key=lambda token: -x[token])
    if top_k:
        order = order[:top_k]
    weight = {token: np.exp(x[token] - x[order[0]]) for token in order}
    total, mass, kept = sum(weight.values()), 0.0, []
    for token in order:
        if mass / total >= top_p:
            break
        mass += weight[token]
        kept.append(token)
    kept = [token for token in kept if weight[token] >= min_p]
    result = np.zeros(len(x))
    result[kept] = [weight[token] for token in kept]
    return result / result.sum()


def theirs(scores: np.ndarray, seen: list[int], options: dict[str, Any]) -> np.ndarray:
    """The same by the processors of `transformers`."""
    steps: list[Any] = []
    if "repetition_penalty" in options:
        steps.append(transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if "temperature" in options:
        steps.append(transformers.TemperatureLogitsWarper(float(options["temperature"])))
    if "top_k" in options:
        steps.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        steps.append(transformers.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        steps.append(transformers.MinPLogitsWarper(options["min_p"]))
    x = torch.from_numpy(scores[None].copy())
    for step in steps:
        x = step(torch.tensor([seen]), x)
    return torch.softmax(x, dim=-1)[0].numpy()


def arrays_of(
    options: Sampling, rows: int, prompts: Sequence[int] = (PROMPT,)
) -> sampling.SamplingArrays:
    return sampling.arrays_of(
        options,
        seeds=sampling.row_seeds(options, prompts),
        prompts=prompts,
        samples=rows // len(prompts),
        put=lambda x, spec: jnp.asarray(x),
    )


def draw(
    options: Sampling,
    rows: int,
    *,
    step: int = 0,
    prompts: Sequence[int] = (PROMPT,),
    scores: np.ndarray | None = None,
) -> sampling.Choice:
    seen = np.zeros((rows, VOCAB if options.mode.penalises else 0), bool)
    if options.mode.penalises:
        seen[:, SEEN] = True
    many = jnp.broadcast_to(jnp.asarray(logits() if scores is None else scores), (rows, VOCAB))
    return sampling.choose(
        many, arrays_of(options, rows, prompts), jnp.asarray(seen), step, mode=options.mode
    )


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_draws_are_distributed_as_they_should_be(options: dict[str, Any]) -> None:
    expected = probabilities(logits(), SEEN, **options)
    chex.assert_trees_all_close(theirs(logits(), SEEN, options), expected, atol=1e-5, rtol=1e-7)
    tokens = np.asarray(draw(Sampling(**options, seed=11), DRAWS).token)
    counts = np.bincount(tokens, minlength=VOCAB)
    assert not counts[expected == 0].any()
    # Rare tokens together: a χ² test wants some draws of everything.
    rare = expected * DRAWS < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    hoped = np.append(expected[~rare], expected[rare].sum()) * DRAWS
    observed, hoped = observed[hoped > 0], hoped[hoped > 0]
    if len(hoped) > 1:
        assert scipy.stats.chisquare(observed, hoped).pvalue > 1e-3
        wrong = np.roll(hoped, 1)  # and the test sees another distribution
        assert scipy.stats.chisquare(observed, wrong).pvalue < 1e-3
    else:
        assert observed[0] == DRAWS


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 5}, {1, 2, 3, 4, 6}),
        ({"top_p": 0.3}, {1, 2}),
        ({"min_p": 0.99}, {1, 2, 3, 4}),
        ({"top_p": 1e-9}, {1}),
    ],
)
def test_of_equal_tokens_the_first_are_kept(options: dict[str, Any], kept: set[int]) -> None:
    tokens = np.asarray(draw(Sampling(**options, seed=2), 500, scores=TIED).token)
    assert set(tokens.tolist()) == kept
    expected = probabilities(TIED, [], **options)
    assert set(np.flatnonzero(expected).tolist()) == kept


def test_extreme_temperatures() -> None:
    """Near 0 the likeliest, very high all that is possible; infinite penalties are refused."""
    for temperature in (1e-6, 1e-7, 1e-300):
        tokens = np.asarray(draw(Sampling(temperature=temperature, top_p=0.9, seed=1), 50).token)
        assert set(tokens.tolist()) == {int(logits().argmax())}
    tokens = np.asarray(draw(Sampling(temperature=1e6, seed=1), 4000, scores=TIED).token)
    assert set(tokens.tolist()) == set(range(VOCAB)) - {5}
    for fields in ({"temperature": 1e39}, {"temperature": 10**400}, {"repetition_penalty": 1e-50}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            sampling.parse(fields)


@pytest.mark.long
def test_draws_of_steps_samples_seeds_and_prompts_are_independent() -> None:
    """Pairs of draws, as a contingency table, show no association."""
    options = Sampling(top_k=4, seed=5)
    one = np.asarray(draw(options, DRAWS).token)
    for other in (
        np.asarray(draw(options, DRAWS, step=1).token),
        np.asarray(draw(Sampling(top_k=4, seed=6), DRAWS).token),
        np.asarray(draw(Sampling(top_k=4, seed=5 + 2**32), DRAWS).token),
        np.asarray(draw(options, DRAWS, prompts=[PROMPT + 1]).token),
        np.asarray(draw(options, DRAWS, prompts=[PROMPT + 2**32]).token),
        np.asarray(draw(options, 2 * DRAWS, prompts=[PROMPT] * 2).token)[DRAWS:],
        np.roll(one, 1),  # neighbouring samples
    ):
        names = {token: i for i, token in enumerate(np.unique(one))}
        table = np.zeros((len(names), len(names)))
        for a, b in zip(one, other, strict=True):
            table[names[a], names[b]] += 1
        assert len(names) == 4
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_a_draw_depends_on_its_own_key_alone() -> None:
    options = Sampling(top_p=0.9, seed=(3, 4, 2**64 - 1))
    batch = np.asarray(draw(options, 3 * 50, prompts=[PROMPT] * 3).token).reshape(3, 50)
    for seed, row in zip((3, 4, 2**64 - 1), batch, strict=True):
        single = np.asarray(draw(Sampling(top_p=0.9, seed=seed), 20).token)
        chex.assert_trees_all_equal(single, row[:20])
    assert len({tuple(row) for row in batch.tolist()}) == 3


def test_equal_questions_have_streams_of_their_own() -> None:
    """Also across a batch that mixes them with others; and the seed that is told draws alike."""
    options = Sampling(top_p=0.9, seed=3)
    prompts = [PROMPT, 7, PROMPT, PROMPT, 7]
    batch = np.asarray(draw(options, 5 * 50, prompts=prompts).token).reshape(5, 50)
    assert len({tuple(row) for row in batch.tolist()}) == 5
    seeds = sampling.row_seeds(options, prompts)
    assert seeds[:2] == [3, 3] and len(set(seeds[2:])) == 2 and seeds[2] == seeds[4]
    for seed, prompt, row in zip(seeds, prompts, batch, strict=True):
        single = np.asarray(draw(Sampling(top_p=0.9, seed=seed), 50, prompts=[prompt]).token)
        chex.assert_trees_all_equal(single, row)
    # Longer batches repeat no stream, and say what shorter ones said.
    many = sampling.row_seeds(options, [PROMPT] * 1000)
    assert len(set(many)) == 1000 and all(0 <= seed < 2**64 for seed in many)
    assert many[:3] == [seeds[i] for i in (0, 2, 3)]


def test_draws_over_equal_questions_are_distributed_as_they_should_be() -> None:
    """One draw of each, by a seed made for its turn, or by a random one."""
    expected = probabilities(logits(), [], top_k=6)
    for seed in (4, tuple(range(DRAWS))):
        options = Sampling(top_k=6, seed=seed)
        tokens = np.asarray(draw(options, DRAWS, prompts=[PROMPT] * DRAWS).token)
        counts = np.bincount(tokens, minlength=VOCAB)[expected > 0]
        assert counts.sum() == DRAWS
        assert scipy.stats.chisquare(counts, expected[expected > 0] * DRAWS).pvalue > 1e-3


def test_without_a_seed_every_question_gets_a_new_one() -> None:
    found = [seed for _ in range(50) for seed in sampling.row_seeds(Sampling(), [1, 1, 2])]
    assert len(set(found)) == 150 and all(0 <= seed < 2**64 for seed in found)
    assert 2**62 < np.mean([float(seed) for seed in found]) < 3 * 2**62  # 64 bits, not 32
    assert sampling.row_seeds(Sampling(seed=(5, 5, 9)), [1, 1, 1]) == [5, 5, 9]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_without_temperature_the_likeliest_is_taken(penalty: float) -> None:
    options = Sampling(temperature=0, repetition_penalty=penalty, top_k=3, seed=1)
    expected = probabilities(logits(), SEEN, temperature=1e-3, repetition_penalty=penalty)
    assert set(np.asarray(draw(options, 20).token).tolist()) == {int(expected.argmax())}
    assert options.mode.draws is False and options.mode.filters is False
    assert sampling.parse(None).mode == sampling.Mode(False, False, False)


def test_log_probabilities_are_the_models_own() -> None:
    """The log-probability of what was chosen, before penalty, temperature and cuts."""
    options = Sampling(temperature=3.0, top_k=9, repetition_penalty=2.0, seed=1)
    choice = draw(options, 30)
    expected = np.log(probabilities(logits(), []))[np.asarray(choice.token)]
    chex.assert_trees_all_close(choice.logprob, expected, atol=1e-5, rtol=1e-7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be finite"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 2.5}, "2.5"),
        ({"top_p": 0}, "top_p=0 must be above 0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed="),
        ({"seed": True}, "seed"),
        ({"seed": (1, None)}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"seed": float("nan")}, "seed"),
        ({"top_p": True}, "top_p"),
        ({"temprature": 1.0}, r"unknown \['temprature'\]; there is temperature, top_k"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        sampling.parse(fields)


def test_wrong_kinds_and_numbers_of_things_are_refused() -> None:
    wrong: Any = 0.7
    with pytest.raises((ValueError, TypeError), match="sampling"):
        sampling.parse(wrong)
    with pytest.raises(ValueError, match="2 seeds for 3 questions"):
        sampling.row_seeds(Sampling(seed=(1, 2)), [1, 2, 3])
