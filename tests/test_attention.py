"""Every implementation of attention against the float32 reference, on one table of cases."""

import functools

import attention_cases
import flops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, TOLERANCE, Case, check, make

from star_jax import attention
from star_jax.attention import reference, xla

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
    expected = attention_cases.reference_of(arrays, options)
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
    arrays, options = attention_cases.make_gap("float32")
    expected = attention_cases.reference_of(arrays, options)
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
    expected = attention_cases.reference_of(arrays, options)
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
