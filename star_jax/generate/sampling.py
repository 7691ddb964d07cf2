"""How the next token is chosen: the likeliest, or one drawn at random.

Every draw has a key of its own, folded from (seed, prompt, sample, step): it depends neither on
the batch that a row stands in, nor on how many tokens a call generates.
"""

import collections
import dataclasses
import hashlib
import math
import numbers
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, Bool, Float, Int, UInt32
from star_jax.runtime import mesh as mesh_lib
from star_jax.sizes import shown

SEEDS = 2**64
LARGE = 1e6  # beyond it, or below its inverse, scores would leave float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draws tokens at random, from probabilities that are first made sharper or cut.

    In this order, as `transformers` has it; each field's default changes nothing. Of tokens that
    are equally likely, the first in the vocabulary counts as the likelier.

    repetition_penalty: logits of tokens that context, query or answer hold are divided by it
      where positive, and multiplied where negative. Works without drawing, too.
    temperature: logits are divided by it; 0 takes the likeliest token, as does all below 1e-6.
    top_k: only the k likeliest tokens; 0: all.
    top_p: only the likeliest tokens that together reach this probability.
    min_p: only tokens at least this probable, relative to the likeliest.
    seed: None is a new random one for each question; or 0 ... 2**64 - 1; or a tuple, with one for
      each question, context after context. `Answer.seed` says which it was: given again, it
      draws the same. With one number for all, questions that differ draw apart, each as it would
      alone. The first of equal ones does, too; for each further one another seed is made of it
      and its turn.
    """

    temperature: float | int = 1.0
    top_k: int = 0
    top_p: float | int = 1.0
    min_p: float | int = 0.0
    repetition_penalty: float | int = 1.0
    seed: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in [field.name for field in dataclasses.fields(self)][:-1]:
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                raise ValueError(f"{name}={shown(value)} must be a number")
            if value != value or abs(value) == math.inf:
                raise ValueError(f"{name}={shown(value)} must be finite")
        if not 0 <= self.temperature <= LARGE:
            raise ValueError(
                f"temperature={shown(self.temperature)} must be at least 0 (0: greedy), "
                f"and at most {LARGE:.0f}"
            )
        if not isinstance(self.top_k, numbers.Integral) or self.top_k < 0:
            raise ValueError(
                f"top_k={shown(self.top_k)} must be an integer, at least 0 (0: all tokens)"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={shown(self.top_p)} must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={shown(self.min_p)} must be from 0 to 1")
        if not 1 / LARGE <= self.repetition_penalty <= LARGE:
            raise ValueError(
                f"repetition_penalty={shown(self.repetition_penalty)} must be above 0, "
                f"from {1 / LARGE} to {LARGE:.0f}"
            )
        if self.seed is None:
            return
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
                raise ValueError(f"seed={shown(seed)} must be an integer, a tuple of them, or None")
            if not 0 <= seed < SEEDS:
                raise ValueError(f"seed={shown(seed)} must be an integer from 0 to 2**64 - 1")

    @property
    def mode(self) -> "Mode":
        draws = self.temperature >= 1 / LARGE
        return Mode(
            draws=draws,
            filters=draws and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0),
            penalises=self.repetition_penalty != 1,
        )


GREEDY = Sampling(temperature=0.0)


def parse(sampling: Sampling | Mapping[str, Any] | None) -> Sampling:
    """A `Sampling` from its fields; None is greedy.

    Raises:
      ValueError: a field is unknown, or its value impossible.
    """
    if sampling is None:
        return GREEDY
    if isinstance(sampling, Sampling):
        return sampling
    if not isinstance(sampling, Mapping):
        raise ValueError(
            f"sampling={shown(sampling)} must be Sampling(...), a mapping of its fields, or None"
        )
    known = [field.name for field in dataclasses.fields(Sampling)]
    if unknown := [name for name in sampling if name not in known]:
        raise ValueError(f"sampling: unknown {shown(unknown)}; there is {', '.join(known)}")
    return Sampling(**sampling)


@dataclasses.dataclass(frozen=True)
class Mode:
    """What a program is compiled for; the numbers are data."""

    draws: bool
    filters: bool
    penalises: bool


class SamplingArrays(NamedTuple):
    """The numbers of a `Sampling`, as data."""

    numbers: Array  # float32 [5], named below
    keys: Array  # uint32 [R, 5]: seed and prompt (two words each), and number of the sample

    @property
    def temperature(self) -> Array:
        return self.numbers[0]

    @property
    def top_k(self) -> Array:
        return self.numbers[1]

    @property
    def top_p(self) -> Array:
        return self.numbers[2]

    @property
    def min_p(self) -> Array:
        return self.numbers[3]

    @property
    def repetition_penalty(self) -> Array:
        return self.numbers[4]


def row_seeds(sampling: Sampling, prompts: Sequence[int]) -> list[int]:
    """The seed of each question, of which `prompts` has the hashes; see `Sampling`.

    Raises:
      ValueError: the number of seeds is not that of the questions.
    """
    if sampling.seed is None:
        return [secrets.randbits(64) for _ in prompts]
    if isinstance(sampling.seed, tuple):
        if len(sampling.seed) != len(prompts):
            raise ValueError(f"{len(sampling.seed)} seeds for {len(prompts)} questions")
        return [int(seed) for seed in sampling.seed]
    turns: collections.Counter[int] = collections.Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(_in_turn(int(sampling.seed), turns[prompt]))
        turns[prompt] += 1
    return seeds


def _in_turn(seed: int, turn: int) -> int:
    """The seed of a question that stands in a batch for the `turn`th time, from 0 on."""
    if not turn:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {turn}".encode(), digest_size=8).digest())


def arrays_of(
    sampling: Sampling,
    *,
    seeds: Sequence[int],
    prompts: Sequence[int],
    samples: int,
    put: Callable[..., Array],
) -> SamplingArrays:
    """The numbers for `samples` rows of each question.

    seeds, prompts: 64 bits for each question. `put` puts a host array on the mesh, with the
    layout it is told.
    """
    keys = np.zeros((len(seeds), samples, 5), np.uint32)
    for row, seed, prompt in zip(keys, seeds, prompts, strict=True):
        row[:, :4] = *divmod(seed, 2**32), *divmod(prompt, 2**32)
        row[:, 4] = np.arange(samples)
    numbers = (
        sampling.temperature,
        min(sampling.top_k, 2**24),  # a whole number in float32, and beyond any vocabulary
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
    )
    return SamplingArrays(
        put(np.asarray(numbers, np.float32), mesh_lib.WHOLE),
        put(keys.reshape(-1, 5), mesh_lib.QUERY),
    )


def layout() -> SamplingArrays:
    """The `PartitionSpec` of each of the `how`, for `shard_map`."""
    return SamplingArrays(mesh_lib.WHOLE, mesh_lib.QUERY)  # type: ignore[arg-type]


class Choice(NamedTuple):
    """The next token of each row, and its log-probability under the model."""

    token: Array  # [R]
    logprob: Array  # [R], before penalty, temperature and cuts; NaN if any logit is not finite


def choose(
    logits: Float[Array, "R V"],
    how: SamplingArrays,
    seen: Bool[Array, "R seen"],
    step: Int[Array, ""] | int,
    *,
    mode: Mode,
) -> Choice:
    """Chooses the token that follows; `step` counts the tokens of the answer so far.

    `seen` says which tokens are penalised, [R, V]; it has no columns if none are.
    """
    scores = logits
    if mode.penalises:
        penalty = how.repetition_penalty
        scores = jnp.where(seen, jnp.where(scores > 0, scores / penalty, scores * penalty), scores)
    if mode.draws:
        scores = scores / how.temperature
        if mode.filters:
            scores = jnp.where(_kept(scores, how), scores, -jnp.inf)
        # The largest of score + Gumbel noise is a draw from the softmax of the scores.
        scores = scores + _noise(how.keys, step, logits.shape[1])
    token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    finite = jnp.isfinite(logits).all(axis=-1)  # of -inf alone, no sum would tell
    return Choice(token, jnp.where(finite, chosen - jax.nn.logsumexp(logits, axis=-1), jnp.nan))


def _kept(scores: Float[Array, "R V"], how: SamplingArrays) -> Bool[Array, "R V"]:
    """The tokens that `top_k`, `top_p` and `min_p` keep; one at least."""
    order = jnp.argsort(scores, axis=-1, descending=True, stable=True)
    ranked = jnp.take_along_axis(scores, order, axis=-1)
    rank = jnp.arange(ranked.shape[1])
    kept = (rank < how.top_k) | (how.top_k == 0)
    probability = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf), axis=-1)
    likelier = jnp.cumsum(probability, axis=-1) - probability
    kept = kept & (likelier < how.top_p) & (probability >= how.min_p * probability[:, :1])
    kept = kept | (rank == 0)
    return jnp.zeros(scores.shape, bool).at[jnp.arange(len(order))[:, None], order].set(kept)


def _noise(
    keys: UInt32[Array, "R 5"], step: Int[Array, ""] | int, size: int
) -> Float[Array, "R V"]:
    def one(words: Array) -> Array:
        key = jax.random.key(0, impl="threefry2x32")
        for word in (*words, step):
            key = jax.random.fold_in(key, word)
        return jax.random.gumbel(key, (size,), jnp.float32)

    return jax.vmap(one)(keys)
