"""Phase 1 as it is defined, with halo and corrections: masks written out, on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from star_jax import Star
from star_jax.models import Decoder


def masks(length: int, star: Star, window: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What each token sees, and what it misses of the keys before its block: bool [L, L].

    With a window it sees all that is within it.
    """
    token, key = np.arange(length)[:, None], np.arange(length)
    if window is not None:
        return (key <= token) & (key > token - window), np.zeros((length, length), bool)
    start = token // star.block_size * star.block_size
    seen = (key >= start - star.halo) | (key < star.anchor)
    return seen & (key <= token), ~seen & (key < start)


def rows(length: int, star: Star) -> np.ndarray:
    """The last strided row of its block up to each token: [L]."""
    at = np.arange(length) % star.block_size
    return np.arange(length) - at + at // star.stride * star.stride


@dataclasses.dataclass(frozen=True)
class Defined:
    """Attention of one whole context. The state is K and V of the layers so far."""

    star: Star

    def start(self, spec, k, v, state):
        return (*state, (k, v))

    def __call__(self, spec, q, k, v, state):
        length, group = q.shape[1], q.shape[2] // k.shape[2]
        seen, missed = masks(length, self.star, spec.window)
        x, keys, values = q[0], jnp.repeat(k[0], group, axis=1), jnp.repeat(v[0], group, axis=1)
        scores = spec.scale * jnp.einsum("tnh,snh->nts", x, keys, precision="highest")
        if spec.soft_cap is not None:
            scores = spec.soft_cap * jnp.tanh(scores / spec.soft_cap)

        def over(mask):
            """The log of the sum of exponentials [N, T], and the weights [N, T, S]."""
            hidden = jnp.where(mask, scores, -jnp.inf)
            lse = jax.nn.logsumexp(hidden, axis=-1)
            weights = jnp.exp(hidden - jnp.where(lse == -jnp.inf, 0, lse)[..., None])
            return lse, weights

        def mean(weights, of):
            return jnp.einsum("nts,snh->nth", weights, of, precision="highest")

        sparse_lse, weights = over(seen)
        sparse = mean(weights, values)
        far_lse, weights = over(missed)
        far, far_key = mean(weights, values), mean(weights, keys)
        exact = _merged(sparse, sparse_lse, far, far_lse)
        row = rows(length, self.star)
        delta = sparse + exact[:, row] - sparse[:, row]
        tangent = self._tangent(x, spec.scale, sparse, sparse_lse, far, far_lse, far_key)
        out = {
            None: sparse,
            "delta": delta,
            "tangent": tangent,
            "both": (delta + tangent) / 2,
        }[None if spec.window is not None else self.star.correction]
        return out.transpose(1, 0, 2)[None], state

    def _tangent(self, x, scale, sparse, sparse_lse, far, far_lse, far_key):
        star, length = self.star, x.shape[0]
        token, row = np.arange(length)[:, None], np.arange(length)
        same = token // star.block_size == row // star.block_size
        is_row = same & (row <= token) & (row % star.block_size % star.stride == 0)
        q = x.transpose(1, 0, 2)  # [N, T, H]
        slope = jnp.einsum("nth,nrh->ntr", q, far_key, precision="highest")
        own = jnp.einsum("nrh,nrh->nr", q, far_key, precision="highest")
        heights = far_lse[:, None] + scale * (slope - own[:, None])
        heights = jnp.where(is_row, heights, -jnp.inf)
        best = heights.argmax(axis=-1)
        chosen = jnp.take_along_axis(far, best[..., None], axis=1)
        return _merged(sparse, sparse_lse, chosen, heights.max(axis=-1))


def _merged(a, a_lse, b, b_lse):
    lse = jnp.logaddexp(a_lse, b_lse)
    return a * jnp.exp(a_lse - lse)[..., None] + b * jnp.exp(b_lse - lse)[..., None]


def encode(model: Decoder, context: list[int], star: Star):
    """K and V per layer, [1, L, K, H] each."""
    tokens = np.asarray(context)[None]
    return _encode(model, tokens, star)


def _encode(model, tokens, star):
    positions = jnp.arange(tokens.shape[1])[None]
    run = jax.jit(lambda m, t: m.run(t, positions, Defined(star), ())[1])
    state = run(model, tokens)
    return tuple(k for k, _ in state), tuple(v for _, v in state)


def score(model: Decoder, context: list[int], query: list[int], star: Star):
    """(logits [Lq, V], K, V)."""
    k, v = encode(model, context, star)
    positions = range(len(context), len(context) + len(query))
    return tiny.forward(model, query, positions, (k, v))[0], k, v
