"""What a context with fewer keys is by definition: all keys are computed, and some are not seen."""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import literal
import numpy as np

from star_jax import Keep, Star


@dataclasses.dataclass(frozen=True)
class Recorded(literal.Defined):
    """Keeps the queries too."""

    def __call__(self, spec: Any, q: Any, k: Any, v: Any, state: Any) -> Any:
        out, state = super().__call__(spec, q, k, v, state)
        return out, (*state[:-1], (q, k, v))


def encode(model: Any, context: list[int], star: Star) -> list[tuple[np.ndarray, ...]]:
    """q, k, v of each layer, [L, N, H] and [L, K, H]."""
    layers = _encode(model, np.asarray(context)[None], star)
    return [tuple(np.asarray(x[0], np.float64) for x in layer) for layer in layers]


@functools.partial(jax.jit, static_argnums=2)
def _encode(model: Any, tokens: Any, star: Star) -> Any:
    return model.run(tokens, jnp.arange(tokens.shape[1])[None], Recorded(star), ())[1]


def kept(scores: Any, layer: Any, config: Any, star: Star, keep: Keep, index: int) -> np.ndarray:
    """Which keys each head of a layer keeps: bool [L, K].

    scores(q, k, v, start, spec) of one block: [S, K].
    """
    length, heads = layer[1].shape[:2]
    found, share = np.zeros((length, heads), bool), Fraction(repr(keep.share))
    for start in range(0, length, star.block_size):
        block = slice(start, start + star.block_size)
        q, k, v = (x[block] for x in layer)
        value = scores(q, k, v, start, config.layers[index])
        safe = min(star.anchor, len(k)) if start == 0 else 0
        count = math.ceil(share * (len(k) - safe))
        found[start : start + safe] = True
        for head in range(heads):
            best = np.argsort(-value[safe:, head], kind="stable")[:count]
            found[start + safe + best, head] = True
    return found


@dataclasses.dataclass(frozen=True)
class Masked:
    """Attention of a query to those keys of a context that its heads have kept, and to itself."""

    k: Any  # per layer [L, K, H]
    v: Any
    mask: Any  # per layer [L, K]

    def start(self, spec: Any, k: Any, v: Any, state: Any) -> Any:
        del spec, k, v
        return state

    def __call__(self, spec: Any, q: Any, k: Any, v: Any, state: Any) -> Any:
        i, size = spec.index, q.shape[1]
        keys, values = (
            jnp.concatenate([before, own[0]]) for before, own in ((self.k[i], k), (self.v[i], v))
        )
        own = np.tril(np.ones((size, size), bool))[:, :, None]
        seen = jnp.concatenate(
            [
                jnp.broadcast_to(self.mask[i], (size, *self.mask[i].shape)),
                jnp.broadcast_to(own, (size, size, keys.shape[1])),
            ],
            axis=1,
        )
        if spec.window is not None:
            at = np.arange(len(keys)) - (len(keys) - size)
            near = at > np.arange(size)[:, None] - spec.window
            seen &= near[..., None]
        group = q.shape[2] // keys.shape[1]
        keys, values, seen = (
            jnp.repeat(x, group, axis=-2 + (x is seen)) for x in (keys, values, seen)
        )
        scores = spec.scale * jnp.einsum("tnh,snh->tsn", q[0], keys, precision="highest")
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=1)
        out = jnp.einsum("tsn,snh->tnh", weights, values, precision="highest")
        return out[None], state


def score(model: Any, layers: Any, masks: Any, query: list[int]) -> np.ndarray:
    """Logits [Lq, V] of a query after a context of which some keys are seen."""
    k, v = (tuple(np.asarray(layer[i], np.float32) for layer in layers) for i in (1, 2))
    return np.asarray(_score(model, np.asarray(query)[None], k, v, tuple(masks)))


@jax.jit
def _score(model: Any, tokens: Any, k: Any, v: Any, masks: Any) -> Any:
    length = k[0].shape[0]
    positions = jnp.arange(length, length + tokens.shape[1])[None]
    hidden, _ = model.run(tokens, positions, Masked(k, v, masks), ())
    return model.logits(hidden)[0]


def defined(
    model: Any, context: list[int], query: list[int], star: Star, keep: Keep, scores: Any
) -> np.ndarray:
    """The logits of a query after a context with fewer keys."""
    layers = encode(model, context, star)
    masks = [
        np.ones(layer[1].shape[:2], bool)
        if model.config.layers[i].window
        else kept(scores, layer, model.config, star, keep, i)
        for i, layer in enumerate(layers)
    ]
    return score(model, layers, masks, query)
