"""The table of cases that every implementation of attention passes, and how it is checked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array
from star_jax.attention import Partial, Segment, reference


@dataclasses.dataclass(frozen=True)
class Case:
    """Up to three segments: a prefix, a halo that ends where the queries begin, their own keys.

    prefix, halo: how many keys. offset, window and causal are of the queries' own keys, and
    halo_window is of the halo.
    """

    name: str
    T: int
    S: int
    N: int = 4
    K: int = 2
    H: int = 32
    causal: bool = True
    offset: tuple[int, int] | None = None
    length: tuple[int, int] | None = None
    begin: tuple[int, int] | None = None
    window: int | None = None
    prefix: int | None = None
    prefix_length: tuple[int, int] | None = None
    halo: int | None = None
    halo_offset: tuple[int, int] | None = None
    halo_window: int | None = None
    soft_cap: float | None = None


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
# The far keys of strided rows.
LATER = [
    Case("later keys", 150, 400, causal=False, begin=(100, 0)),
    Case("later keys and lengths", 150, 400, causal=False, begin=(64, 399), length=(65, 300)),
    Case("later keys at tiles", 150, 512, causal=False, begin=(128, 256), length=(512, 384)),
    Case("no later key", 150, 300, causal=False, begin=(300, 150), length=(300, 150)),
    Case("later keys for few rows", 3, 1300, causal=False, begin=(600, 70), length=(1300, 90)),
    Case("later keys for a few more", 40, 700, causal=False, begin=(513, 1), length=(699, 700)),
]
WINDOWS = [
    Case("window", 300, 300, window=70),
    Case("window of a tile", 256, 256, window=64),
    Case("window of one", 200, 200, window=1),
    Case("window that hides nothing", 150, 150, window=150),
    Case("window and offset", 128, 512, offset=(256, 384), window=100),
    Case("window and lengths", 200, 700, offset=(450, 20), length=(600, 40), window=90),
    Case("window and negative offset", 130, 130, offset=(-64, -200), window=30),
    Case("window that is not causal", 300, 300, causal=False, window=40),
    Case("window behind the keys", 150, 100, causal=False, offset=(60, 300), window=80),
    Case("last keys of many", 3, 1700, offset=(1500, 1100), length=(1503, 1000), window=300),
    Case("last keys, not causal", 1, 1700, causal=False, offset=(1650, 600), window=100),
    Case("block behind its window", 150, 213, offset=(63, 63), window=64, begin=(63, 10)),
    Case("later keys, causal", 200, 200, begin=(70, 5)),
    Case("later keys in a window", 150, 150, begin=(70, 5), window=40),
]
SOFT_CAPS = [
    Case("soft cap", 200, 200, soft_cap=0.7),
    Case("soft cap and lengths", 130, 300, causal=False, length=(0, 299), soft_cap=30.0),
    Case("soft cap and window", 200, 200, prefix=90, window=50, soft_cap=2.0),
    Case("soft cap for few rows", 2, 300, causal=False, begin=(70, 0), soft_cap=50.0),
]
# What only the reference and XLA serve, but for the first ones.
WIDER = [
    *WINDOWS,
    *LATER,
    *SOFT_CAPS,
    Case("halo", 200, 200, halo=64),
    Case("three segments", 200, 200, prefix=70, prefix_length=(0, 70), halo=48),
    Case("three with windows", 180, 180, window=100, prefix=33, halo=100, halo_window=100),
    Case("halo further off", 150, 150, prefix=9, halo=80, halo_offset=(80, 130), halo_window=90),
    Case("three for one query", 1, 900, causal=False, length=(800, 0), prefix=20, halo=30),
]
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}


def make(case: Case, dtype: str, seed: int = 0, spread: float = 1.0):
    """(arrays, options): q and segments; what else attention is called with."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) * spread, dtype)

    def keys(count) -> tuple[Array, Array]:
        return draw(B, count, case.K, case.H), draw(B, count, case.K, case.H)

    def ints(values):
        return None if values is None else jnp.asarray(values)

    B = 2
    q = draw(B, case.T, case.N, case.H)
    own = Segment(
        *keys(case.S),
        ints(case.length),
        case.causal,
        ints(case.offset),
        window=case.window,
        begin=ints(case.begin),
    )
    segments = [own]
    if case.halo is not None:
        offset = ints(case.halo_offset or (case.halo, case.halo))
        segments.insert(0, Segment(*keys(case.halo), offset=offset, window=case.halo_window))
    if case.prefix is not None:
        segments.insert(0, Segment(*keys(case.prefix), ints(case.prefix_length)))
    arrays = {"q": q, "segments": segments}
    return arrays, {"scale": case.H**-0.5, "soft_cap": case.soft_cap}


def make_gap(dtype: str, **shape):
    """Scores of the prefix some 200 above those of the other keys."""
    arrays, options = make(Case("", 130, 130, prefix=130, **shape), dtype)
    prefix, own = arrays["segments"]
    peak = jnp.sign(arrays["q"][:, :1, : own.k.shape[2]]) * 60
    peak = jnp.broadcast_to(peak, prefix.k.shape).astype(dtype)
    return arrays | {"segments": [dataclasses.replace(prefix, k=peak), own]}, options


def reference_of(arrays, options):
    """One program for each case: as many as it has operations would take longer to compile."""
    return jax.jit(functools.partial(reference.attend, **options))(**arrays)


def literal(arrays, options):
    """Attention as it is defined, in float64 and one query of one head after another."""
    q = np.asarray(arrays["q"], np.float64)
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    seen = [[_seen(s, b, q.shape[1]) for b in range(len(q))] for s in arrays["segments"]]
    kv = [np.asarray([s.k, s.v], np.float64) for s in arrays["segments"]]
    for b, t, n in np.ndindex(q.shape[:3]):
        scores, values = [], []
        for (k, v), mask in zip(kv, seen, strict=True):
            head = n // (q.shape[2] // k.shape[2])
            visible = mask[b][t]
            scores.append(options["scale"] * k[b, visible, head] @ q[b, t, n])
            values.append(v[b, visible, head])
        joined = np.concatenate(scores)
        if cap := options["soft_cap"]:
            joined = cap * np.tanh(joined / cap)
        if joined.size:
            weights = np.exp(joined - joined.max())
            lse[b, t, n] = joined.max() + np.log(weights.sum())
            out[b, t, n] = weights @ np.concatenate(values) / weights.sum()
    return Partial(jnp.asarray(out, "float32"), jnp.asarray(lse, "float32"))


def _seen(s, row, queries):
    """For each query the keys of a segment that it sees."""
    keys = s.k.shape[1]
    begin = 0 if s.begin is None else int(s.begin[row])
    length = keys if s.length is None else int(s.length[row])
    offset = 0 if s.offset is None else int(s.offset[row])
    return [
        [
            j
            for j in range(begin, length)
            if (not s.causal or j <= at) and (s.window is None or at - j < s.window)
        ]
        for at in range(offset, offset + queries)
    ]


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
