"""What says which keys of a block are worth keeping: a score for each, and the highest are kept.

All criteria look at one block of one layer, and compute in float32. None knows the question. A
query head's key head is the one whose keys it reads; padding counts for nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array, Bool, Float, Int, Keys, PerRow, Queries, Values
from star_jax.checkpoint.fingerprint import mix
from star_jax.models import LayerSpec, rope
from star_jax.models.rope import Rotation

LAST = 128  # queries of a block at most that `attention` asks, and whose keys it keeps
FUTURE = 512  # positions behind the block over which `expected` averages
CHUNK = 256  # tokens that `compactor` lets attend to each other
LEVERAGE = 0.35  # what leverage counts in it, beside attention
RIDGE = 0.01  # added to the diagonal of a matrix that may be singular, at least
RELATIVE = 1e-6  # of its trace, where that is more: float32 loses 0.01 beside large keys

Scores = Float[Array, "B S K"]


class Block(NamedTuple):
    """One block of a layer, of each row, on one device.

    starts: the position of its first token. valid: how many of its tokens are of the context; the
    others are padding. heads: which of the model's key heads these are.
    """

    spec: LayerSpec
    q: Queries
    k: Keys
    v: Values
    starts: PerRow
    valid: PerRow
    heads: Int[Array, "K"]

    @property
    def size(self) -> int:
        return self.k.shape[1]

    @property
    def is_valid(self) -> Bool[Array, "B S"]:
        return jnp.arange(self.size) < self.valid[:, None]

    def mean(self, x: Float[Array, "B S heads H"]) -> Float[Array, "B 1 heads H"]:
        """Over the valid tokens."""
        total = jnp.where(self.is_valid[..., None, None], x, 0).sum(axis=1, keepdims=True)
        return total / jnp.maximum(self.valid, 1)[:, None, None, None]


def norm(block: Block) -> Scores:
    """Minus the key's norm: many queries attend to keys of a small one.

    Source: Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache
    Compression", EMNLP 2024.
    """
    return -_norm(block.k)


def random(block: Block) -> Scores:
    """The control. A position of a layer and head has the same number wherever it is computed."""
    position = (block.starts[:, None] + jnp.arange(block.size)).astype(jnp.uint32)
    drawn = mix(position ^ mix(jnp.uint32(block.spec.index + 1)))
    drawn = mix(drawn[:, :, None] ^ mix(block.heads.astype(jnp.uint32) + 1))
    return (drawn >> 8).astype(jnp.float32) / 2**24  # of 24 bits, which float32 has


def keydiff(block: Block) -> Scores:
    """Minus the cosine of the key and the mean of all keys, each of norm 1.

    Source: Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM
    Inference in Resource-Constrained Environments", arXiv 2504.15364.
    """
    keys = _unit(block.k.astype(jnp.float32))
    return -_products("bskh,bokh->bsk", keys, _unit(block.mean(keys)))


def attention(block: Block) -> Scores:
    """How much the block's last queries attend to the key, of all keys of the block.

    The attention weight is causal, over the block's own keys, and summed over the last `LAST`
    queries (of an eighth of the block, if that is fewer) and the query heads. The score is the
    logarithm, since most of them may be too small for float32. The keys of these last tokens come
    first, the latest before the others: no later query of the block tells what they are worth.

    Source: Li et al., "SnapKV", NeurIPS 2024, without its pooling; the end of the block stands
    for the question.
    """
    last = max(min(LAST, block.size // 8), 1)
    first = jnp.maximum(block.valid - last, 0)[:, None]
    row, token = first + jnp.arange(last), jnp.arange(block.size)  # [B, R], [S]
    at = jnp.minimum(row, block.size - 1)
    q = jnp.take_along_axis(block.q, at[..., None, None], axis=1)
    scores = block.spec.scale * _of_group(q, block.k)
    if (cap := block.spec.soft_cap) is not None:
        scores = cap * jnp.tanh(scores / cap)
    sees = (token <= row[..., None])[:, :, None, None]
    weights = jax.nn.log_softmax(jnp.where(sees, scores, -jnp.inf), axis=-1)  # [B, R, K, G, S]
    asked = row < block.valid[:, None]
    weights = jnp.where(asked[..., None, None, None], weights, -jnp.inf)
    found = jax.nn.logsumexp(weights, axis=(1, 3))
    above = last * block.q.shape[2] + 1 + token  # the log of a weight is at most 0
    return jnp.where((token >= first)[..., None], above[:, None], found.transpose(0, 2, 1))


def expected(block: Block) -> Scores:
    """How much queries behind the block are expected to attend to the key, times its value's norm.

    The block's queries are taken as normal: of a query head with mean m and covariance C,

        E[exp(scale * q . k)] = exp(scale * m . k + scale^2 / 2 * k . C k)

    These numbers, divided by their sum over the block, are averaged over the query heads. The score
    is the logarithm, since most of them may be too small for float32. For m and C each query is
    turned back by RoPE from where it stood, and to the `FUTURE` positions behind the block's last
    token, over which the rotations are averaged.

    Source: Devoto et al., "Expected Attention", arXiv 2510.00636.
    """
    scale, q = block.spec.scale, block.q.astype(jnp.float32)
    if block.spec.rope is not None:
        q = rope.apply(q, _to_future(block))
    centre = block.mean(q)
    rest = jnp.where(block.is_valid[..., None, None], q - centre, 0)
    key_heads = block.k.shape[2]
    rest = rest.reshape(*rest.shape[:2], key_heads, -1, rest.shape[-1])
    covariance = _products("bskgh,bskgi->bkghi", rest, rest)
    covariance /= jnp.maximum(block.valid, 1)[:, None, None, None, None]
    k = block.k.astype(jnp.float32)
    spread = _products("bkghi,bskh,bski->bkgs", covariance, k, k)
    exponent = scale * _of_group(centre, k)[:, 0] + scale**2 / 2 * spread
    exponent = jnp.where(block.is_valid[:, None, None], exponent, -jnp.inf)
    weights = jax.nn.logsumexp(jax.nn.log_softmax(exponent, axis=-1), axis=2)  # [B, K, S]
    weights -= np.log(rest.shape[3])
    return weights.transpose(0, 2, 1) + jnp.log(_norm(block.v))


def compactor(block: Block) -> Scores:
    """How much its neighbours attend to the key, and how unlike the block's other keys it is.

    Attention is within chunks of `CHUNK` tokens, of all queries to all keys, later ones too, and
    without the scale; summed over the queries, averaged over the query heads, times the value's
    norm, and averaged with the two neighbours. Leverage is that of the key before RoPE among all
    of the block, less their mean: x . (X' X + ridge)^-1 x; see `RIDGE` and
    `RELATIVE`. Both are standardised over the block.

    Source: Chari and Van Durme, "Compactor", arXiv 2507.08143; leverage here is without a sketch.
    """
    near = _near(block) * _norm(block.v)
    near = jnp.where(block.is_valid[..., None], near, 0)
    padded = jnp.pad(near, ((0, 0), (1, 1), (0, 0)))
    near = (padded[:, :-2] + near + padded[:, 2:]) / 3
    return _standard(block, near) + LEVERAGE * _standard(block, _leverage(block))


def _near(block: Block) -> Scores:
    """The attention that a key finds within its chunk."""
    size = min(CHUNK, block.size)
    more = -block.size % size

    def chunks(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

    def one(chunk: tuple[Array, Array, Array]) -> Array:
        q, k, real = chunk
        scores = jnp.where(real[:, None, None, None], _of_group(q, k), -jnp.inf)
        highest = scores.max(axis=-1, keepdims=True)  # -inf in a chunk of padding
        weights = jnp.exp(scores - jnp.where(highest == -jnp.inf, 0, highest))
        weights /= jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
        return jnp.where(real[..., None, None, None], weights, 0).sum(axis=1).mean(axis=2)

    found = jax.lax.map(one, (chunks(block.q), chunks(block.k), chunks(block.is_valid)))
    found = found.transpose(1, 0, 3, 2)  # [chunks, B, K, size] -> [B, chunks, size, K]
    return found.reshape(found.shape[0], -1, found.shape[-1])[:, : block.size]


def _leverage(block: Block) -> Scores:
    k = block.k.astype(jnp.float32)
    if block.spec.rope is not None:
        k = rope.apply(k, _turn(block, -jnp.arange(block.size)))
    x = jnp.where(block.is_valid[..., None, None], k - block.mean(k), 0)
    gram = _products("bskh,bski->bkhi", x, x)
    ridge = jnp.maximum(RELATIVE * jnp.trace(gram, axis1=-2, axis2=-1), RIDGE)
    gram += ridge[..., None, None] * jnp.eye(x.shape[-1])
    solved = jnp.linalg.solve(gram, x.transpose(0, 2, 3, 1))  # [B, K, H, S]
    return _products("bskh,bkhs->bsk", x, solved)


def _standard(block: Block, x: Scores) -> Scores:
    """With a mean of 0 and a variance of 1 over the valid tokens of each head."""
    x = x - block.mean(x[..., None])[..., 0]
    variance = block.mean(x[..., None] ** 2)[..., 0]
    return x / jnp.sqrt(jnp.maximum(variance, 1e-30))


def _to_future(block: Block) -> Rotation:
    """From where each token stands to the positions behind the block: a mean of rotations."""
    cos, sin = _turn(block, block.valid[:, None] - jnp.arange(block.size))
    ahead = _turn(block, jnp.arange(FUTURE)[None])
    more_cos, more_sin = (x.mean(axis=1, keepdims=True) for x in ahead)
    return Rotation(cos * more_cos - sin * more_sin, sin * more_cos + cos * more_sin)


def _turn(block: Block, by: Array) -> Rotation:
    """By so many positions. Lengths stay, also where the model's rotation changes them."""
    if block.spec.rope is None:
        raise ValueError(f"layer {block.spec.index} has no positions")
    by = jnp.broadcast_to(by, (block.k.shape[0], by.shape[-1]))
    angle = by[..., None].astype(jnp.float32)
    angle = angle * rope.frequencies(block.spec.rope, block.k.shape[-1])
    return Rotation(jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None])


def _of_group(q: Queries, k: Keys) -> Float[Array, "B T K G S"]:
    """Products of queries with the keys of their key head."""
    q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    return _products("btkgh,bskh->btkgs", q.astype(jnp.float32), k.astype(jnp.float32))


def _products(how: str, *arrays: Array) -> Array:
    return jnp.einsum(how, *arrays, precision=jax.lax.Precision.HIGHEST)


def _norm(x: Float[Array, "B S K H"]) -> Scores:
    return jnp.linalg.norm(x.astype(jnp.float32), axis=-1)


def _unit(x: Float[Array, "B S K H"]) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


CRITERIA: dict[str, Callable[[Block], Scores]] = {
    "attention": attention,
    "compactor": compactor,
    "expected": expected,
    "keydiff": keydiff,
    "norm": norm,
    "random": random,
}
NEED_QUERIES = frozenset({"attention", "compactor", "expected"})
