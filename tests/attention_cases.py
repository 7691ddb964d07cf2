"""The table of cases that every implementation of attention passes, and how it is checked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.attention import reference


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    T: int
    S: int
    N: int = 4
    K: int = 2
    H: int = 32
    causal: bool = True
    offset: tuple[int, int] | None = None
    length: tuple[int, int] | None = None
    prefix: int | None = None
    prefix_length: tuple[int, int] | None = None


CASES = [
    Case("causal", 300, 300),
    Case("one query", 1, 257, causal=False, length=(257, 100)),
    Case("one key", 1, 1),
    Case("full", 70, 333, causal=False),
    Case("mqa", 130, 130, N=6, K=1),
    Case("mha", 130, 130, N=3, K=3, H=16),
    Case("wide head", 65, 129, H=128, causal=False),
    Case("prefix", 256, 256, prefix=256),
    Case("short prefix", 256, 256, prefix=96),
    Case("tiny prefix", 200, 200, prefix=1),
    Case("prefix of length 0", 256, 256, prefix=64, prefix_length=(0, 64)),
    Case("prefix half hidden", 130, 130, prefix=130, prefix_length=(70, 5)),
    Case("empty prefix", 130, 130, prefix=0),
    Case("lengths", 150, 400, causal=False, length=(0, 399)),
    Case("causal lengths", 200, 200, length=(150, 1)),
    Case("no keys at all", 100, 200, causal=False, length=(0, 0)),
    Case("offset", 128, 512, offset=(256, 384)),
    Case("offset and lengths", 100, 450, offset=(300, 0), length=(450, 40)),
    Case("negative offset", 130, 130, offset=(-64, -200)),
    Case("decode with tail", 1, 90, causal=False, length=(3, 90), prefix=50, prefix_length=(50, 0)),
]
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}


def make(case: Case, dtype: str, seed: int = 0, spread: float = 1.0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) * spread, dtype)

    B = 2
    arrays = {
        "q": draw(B, case.T, case.N, case.H),
        "k": draw(B, case.S, case.K, case.H),
        "v": draw(B, case.S, case.K, case.H),
    }
    options = {"causal": case.causal, "scale": case.H**-0.5}
    if case.offset is not None:
        arrays["q_offset"] = jnp.asarray(case.offset)
    if case.length is not None:
        arrays["kv_length"] = jnp.asarray(case.length)
    if case.prefix is not None:
        arrays["prefix_k"] = draw(B, case.prefix, case.K, case.H)
        arrays["prefix_v"] = draw(B, case.prefix, case.K, case.H)
    if case.prefix_length is not None:
        arrays["prefix_length"] = jnp.asarray(case.prefix_length)
    return arrays, options


def make_gap(dtype: str, **shape):
    """Scores of the prefix some 200 above those of the other keys."""
    arrays, options = make(Case("", 130, 130, prefix=130, **shape), dtype)
    peak = jnp.sign(arrays["q"][:, :1, : arrays["k"].shape[2]]) * 60
    arrays["prefix_k"] = jnp.broadcast_to(peak, arrays["prefix_k"].shape).astype(dtype)
    return arrays, options


def reference_of(arrays, options):
    """One program for each case: as many as it has operations would take longer to compile."""
    return jax.jit(functools.partial(reference.partial_attention, **options))(**arrays)


def check(actual, expected, tolerance):
    assert actual.out.dtype == actual.lse.dtype == jnp.float32
    empty = np.isneginf(expected.lse)
    np.testing.assert_array_equal(np.isneginf(actual.lse), empty)
    np.testing.assert_array_equal(np.asarray(actual.out)[empty], 0)
    error = np.linalg.norm(actual.out - expected.out)
    assert error <= tolerance * np.linalg.norm(expected.out)
    lse, right = np.asarray(actual.lse)[~empty], np.asarray(expected.lse)[~empty]
    allowed = np.maximum(max(tolerance / 10, 1e-5), 1e-5 * np.abs(right))
    assert (np.abs(lse - right) <= allowed).all()
    # A row by itself: those that see few keys are large, and the norm of all is mostly theirs.
    off = np.linalg.norm(np.asarray(actual.out - expected.out)[~empty], axis=-1)
    assert (off <= 5 * tolerance * np.linalg.norm(np.asarray(expected.out)[~empty], axis=-1)).all()
