"""Online softmax: one tile of keys after another is added to what queries have seen so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array
from star_jax.attention.partial import Partial

STRIPS = 2  # of a tile on the diagonal, each without the keys that none of its queries sees


class Score(NamedTuple):
    """How a product of query and key becomes a score, and what is averaged by these scores.

    With a soft cap it is computed at once. Otherwise products are compared before they are
    scaled: that would be one more pass over them.
    """

    scale: float
    soft_cap: float | None
    with_keys: bool = False  # keys are averaged, too, behind the values

    @property
    def factor(self) -> float:
        """What is still to be multiplied with."""
        return self.scale if self.soft_cap is None else 1.0

    def of(self, product: Array) -> Array:
        """The score, apart from `factor`."""
        if self.soft_cap is None:
            return product
        return self.soft_cap * jnp.tanh(product * (self.scale / self.soft_cap))

    def zeros(self, q: Array) -> Array:
        """An empty average for these queries."""
        return jnp.zeros((*q.shape[:-1], q.shape[-1] * (1 + self.with_keys)))


class Softmax(NamedTuple):
    """Online softmax under way. A query that has seen no key has top = -inf, total = 0."""

    acc: Array  # [..., T, H], or 2H with the keys, sum of exp(factor * (score - top)) * v
    top: Array  # [..., T], highest score, apart from the factor
    total: Array  # [..., T], sum of exp(factor * (score - top))


def update(
    old: Softmax | None, q: Array, k: Array, v: Array, mask: Array | None, score: Score
) -> Softmax:
    """Adds one tile. q: [B, K, G, T, H]; k, v: [B, S, K, H]; mask broadcasts to [B, K, G, T, S]."""
    scores = score.of(_product("bkgth,bskh->bkgts", q, k))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    top = scores.max(axis=-1)
    if old is not None:
        top = jnp.maximum(top, old.top)
    finite = jnp.where(top == -jnp.inf, 0.0, top)  # no key yet: exp(-inf - 0) = 0, not NaN
    weights = jnp.exp(score.factor * (scores - finite[..., None]))
    total = weights.sum(axis=-1)
    if score.with_keys:
        v = jnp.concatenate([v, k], axis=-1)
    acc = _product("bkgts,bskh->bkgth", weights.astype(v.dtype), v)
    if old is not None:
        decay = jnp.exp(score.factor * (old.top - finite))
        total = total + decay * old.total
        acc = acc + decay[..., None] * old.acc
    return Softmax(acc, top, total)


def _product(spec: str, x: Array, y: Array) -> Array:
    """In float32. x: [B, K, G, T, H or S]; y: [B, S, K, H]."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    shape = x.shape[:-1]
    if y.shape[2] == 1:  # of more axes, even of size 1, XLA makes a slower product on CPUs
        spec = spec.replace("k", "").replace("g", "")
        x, y = x.reshape(shape[0], -1, x.shape[-1]), y[:, :, 0]
    z = jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)
    return z.reshape(*shape, z.shape[-1])


def update_diagonal(old: Softmax, q: Array, k: Array, v: Array, score: Score) -> Softmax:
    """Adds a tile of as many keys as queries, each of which sees those up to its own."""
    size = q.shape[-2] // STRIPS
    strips = []
    for first in range(0, q.shape[-2], size):
        end = first + size
        part = Softmax(
            old.acc[..., first:end, :], old.top[..., first:end], old.total[..., first:end]
        )
        mask = jnp.arange(end) <= jnp.arange(first, end)[:, None]
        strips.append(update(part, q[..., first:end, :], k[:, :end], v[:, :end], mask, score))
    acc, top, total = zip(*strips, strict=True)
    return Softmax(*(jnp.concatenate(x, axis=q.ndim - 2) for x in (acc, top, total)))


def finish(s: Softmax, score: Score) -> Partial:
    none = s.total == 0
    total = jnp.where(none, 1.0, s.total)
    lse = jnp.where(none, -jnp.inf, score.factor * s.top + jnp.log(total))
    return Partial(s.acc / total[..., None], lse)
