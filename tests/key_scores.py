"""The criteria for fewer keys, written out: of one block, float64 [S, K], with no padding.

`attention` and `expected` are logarithms.

q: [S, N, H]; k, v: [S, K, H], after RoPE; start: the position of the first token.
"""

from typing import Any

import numpy as np

from star_jax.models import rope


def mixed(x: int) -> int:
    """A permutation of 32-bit words: the end of MurmurHash3."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def random(q: Any, k: Any, v: Any, start: int, spec: Any) -> np.ndarray:
    del q, v
    layer, heads = mixed(spec.index + 1), range(k.shape[1])
    return np.asarray(
        [
            [mixed(mixed((start + t) ^ layer) ^ mixed(h + 1)) >> 8 for h in heads]
            for t in range(len(k))
        ]
    )


def norm(q: Any, k: Any, v: Any, start: int, spec: Any) -> np.ndarray:
    del q, v, start, spec
    return -np.sqrt((k**2).sum(axis=-1))


def keydiff(q: Any, k: Any, v: Any, start: int, spec: Any) -> np.ndarray:
    del q, v, start, spec
    unit = k / np.linalg.norm(k, axis=-1, keepdims=True)
    mean = unit.mean(axis=0)
    return -(unit * mean).sum(axis=-1) / np.linalg.norm(mean, axis=-1)


def softmax(x: Any) -> np.ndarray:
    return np.exp(log_softmax(x))


def log_softmax(x: Any) -> np.ndarray:
    return x - np.logaddexp.reduce(x)


def attention(q: Any, k: Any, v: Any, start: int, spec: Any, *, block: int = 32) -> np.ndarray:
    del v, start
    size, heads = k.shape[:2]
    group, last = q.shape[1] // heads, min(128, block // 8)
    found = np.full((size, heads), -np.inf)
    for t in range(max(size - last, 0), size):
        for n in range(q.shape[1]):
            weights = log_softmax(spec.scale * k[: t + 1, n // group] @ q[t, n])
            found[: t + 1, n // group] = np.logaddexp(found[: t + 1, n // group], weights)
    found[-last:] = 1e6 + np.arange(min(last, size))[:, None]
    return found


def turned(x: Any, by: Any, spec: Any) -> np.ndarray:
    """[S, H], each turned by so many positions."""
    if spec.rope is None:
        return x
    frequencies = rope.frequencies(spec.rope, x.shape[-1]).astype(np.float64)
    half = len(frequencies)
    number = (x[:, :half] + 1j * x[:, half : 2 * half]) * np.exp(
        1j * np.asarray(by)[:, None] * frequencies
    )
    return np.concatenate([number.real, number.imag, x[:, 2 * half :]], axis=-1)


def expected(q: Any, k: Any, v: Any, start: int, spec: Any) -> np.ndarray:
    """Each future position by itself, before the mean over them is taken."""
    del start
    size, heads = k.shape[:2]
    group, found = q.shape[1] // heads, np.full((size, heads), -np.inf)
    for n in range(q.shape[1]):
        ahead = np.zeros_like(q[:, n])
        for position in range(size, size + 512):
            ahead += turned(q[:, n], position - np.arange(size), spec) / 512
        mean, covariance = ahead.mean(axis=0), np.cov(ahead.T, bias=True)
        keys = k[:, n // group]
        spread = np.einsum("si,ij,sj->s", keys, covariance, keys)
        weights = log_softmax(spec.scale * keys @ mean + spec.scale**2 / 2 * spread)
        found[:, n // group] = np.logaddexp(found[:, n // group], weights)
    return found - np.log(group) + np.log(np.linalg.norm(v, axis=-1))


def compactor(q: Any, k: Any, v: Any, start: int, spec: Any, *, chunk: int = 256) -> np.ndarray:
    del start
    size, heads = k.shape[:2]
    group, found = q.shape[1] // heads, np.zeros((size, heads))
    for begin in range(0, size, chunk):
        part = slice(begin, begin + chunk)
        for t in range(size)[part]:
            for n in range(q.shape[1]):
                found[part, n // group] += softmax(k[part, n // group] @ q[t, n]) / group
    found *= np.linalg.norm(v, axis=-1)
    edges = np.pad(found, ((1, 1), (0, 0)))
    found = (edges[:-2] + edges[1:-1] + edges[2:]) / 3
    leverage = np.zeros((size, heads))
    for head in range(heads):
        x = turned(k[:, head], -np.arange(size), spec)
        x = x - x.mean(axis=0)
        ridge = max(0.01, 1e-6 * (x**2).sum())
        inverse = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
        leverage[:, head] = np.einsum("si,ij,sj->s", x, inverse, x)
    return standard(found) + 0.35 * standard(leverage)


def standard(x: Any) -> np.ndarray:
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-15)


FORMULAS = {
    "attention": attention,
    "compactor": compactor,
    "expected": expected,
    "keydiff": keydiff,
    "norm": norm,
    "random": random,
}
