"""Every implementation of attention against the float32 reference, on one table of cases."""

import dataclasses
import functools

import flops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import attention
from star_jax.attention import reference, xla


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


def check(actual, expected, tolerance):
    assert actual.out.dtype == actual.lse.dtype == jnp.float32
    empty = np.isneginf(expected.lse)
    np.testing.assert_array_equal(np.isneginf(actual.lse), empty)
    np.testing.assert_array_equal(np.asarray(actual.out)[empty], 0)
    error = np.linalg.norm(actual.out - expected.out)
    assert error <= tolerance * np.linalg.norm(expected.out)
    lse, right = np.asarray(actual.lse)[~empty], np.asarray(expected.lse)[~empty]
    gap = np.abs(lse - right) / np.maximum(1, np.abs(right))
    assert gap.max(initial=0) <= max(tolerance / 10, 1e-5)


RUNS: list[tuple[Case, str, int | None]] = [(case, "float32", None) for case in CASES]
RUNS += [(case, "float32", 0) for case in CASES]
RUNS += [(case, "bfloat16", 0) for case in CASES if case.name not in ("mha", "tiny prefix")]
RUNS += [(case, "float16", 0) for case in CASES if case.name in ("prefix", "decode with tail")]


def label(run):
    case, dtype, small = run
    return f"{case.name}-{dtype}-{'auto' if small is None else 'tiled'}".replace(" ", "-")


@pytest.mark.parametrize(("case", "dtype", "small"), RUNS, ids=map(label, RUNS))
def test_xla_equals_the_reference(case, dtype, small, monkeypatch):
    if small is not None:
        monkeypatch.setattr(xla, "SMALL_SCORES", small)
        monkeypatch.setattr(xla, "FEW_QUERIES", small)
    arrays, options = make(case, dtype)
    expected = reference.partial_attention(**arrays, **options)
    run = functools.partial(attention.partial_attention, implementation="xla", **options)
    check(jax.jit(run)(**arrays), expected, TOLERANCE[dtype])


def test_the_reference_is_softmax_attention():
    """The reference itself against jax.nn, whose causal mask is the same at offset 0."""
    arrays, options = make(Case("", 50, 50), "float32")
    q, k, v = arrays.values()
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True, scale=options["scale"])
    actual = reference.partial_attention(**arrays, **options)
    np.testing.assert_allclose(actual.out, expected, atol=1e-5)


def test_an_lse_gap_of_200_between_segments(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    arrays, options = make(Case("", 130, 130, prefix=130), "float32")
    arrays["prefix_k"] = arrays["prefix_k"] * 0 + jnp.sign(arrays["q"][:, :1, :2]) * 60
    expected = reference.partial_attention(**arrays, **options)
    actual = attention.partial_attention(**arrays, **options, implementation="xla")
    assert float(expected.lse.max()) > 200
    check(actual, expected, 2e-6)


def test_memory_is_linear_in_queries_times_tile():
    """Scores of all pairs would be S / tile times as large as what the program may use."""
    T, N, K, H = 8192, 8, 2, 64
    q, k = (jax.ShapeDtypeStruct((1, T, n, H), jnp.bfloat16) for n in (N, K))
    run = functools.partial(
        attention.partial_attention, causal=True, scale=1.0, implementation="xla"
    )
    program = jax.jit(run).lower(q, k, k).compile()
    scores = T * T * N * 4
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < scores / 8


@pytest.mark.parametrize("length", [512, 2048, 5000, 16384])
def test_little_is_wasted_on_the_diagonal(length):
    """Matmul work over that of the pairs that a causal mask leaves: an eighth, less for many."""
    q, k = (jax.ShapeDtypeStruct((1, length, n, 64), jnp.float32) for n in (8, 2))
    run = functools.partial(
        attention.partial_attention, causal=True, scale=1.0, implementation="xla"
    )
    work = flops.matmul_flops(jax.jit(run).trace(q, k, k))
    needed = 4 * 8 * 64 * length * (length + 1) / 2
    assert needed < work <= needed * (1 + max(1 / 8, 512 / length))


def test_what_is_not_finite_stays_in_its_row(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    arrays, options = make(Case("", 130, 130), "float32")
    expected = reference.partial_attention(**arrays, **options)
    arrays["q"] = arrays["q"].at[0].set(jnp.nan)
    actual = attention.partial_attention(**arrays, **options, implementation="xla")
    assert np.isnan(actual.out[0]).all()
    np.testing.assert_allclose(actual.out[1], expected.out[1], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "fast"}, "implementation='fast'"),
        ({"prefix_k": None}, "prefix_k and prefix_v"),
        ({"prefix_k": None, "prefix_v": None}, "without a prefix"),
        ({"q": jnp.zeros((2, 3, 5, 32))}, "5 query heads"),
    ],
)
def test_bad_input_is_named(change, message):
    arrays, options = make(Case("", 3, 3, prefix=3, prefix_length=(1, 1)), "float32")
    arguments = {**arrays, **options, "implementation": "xla", **change}
    with pytest.raises(ValueError, match=message):
        attention.partial_attention(**arguments)


def test_a_scale_that_is_not_positive_is_refused():
    """Scores are scaled after the highest is found."""
    arrays, options = make(Case("", 3, 3), "float32")
    arguments = {**arrays, **options, "scale": -1.0}
    with pytest.raises(NotImplementedError, match=r"scale=-1\.0"):
        attention.partial_attention(**arguments, implementation="xla")
