"""Every implementation of attention against the float32 reference, on one table of cases."""

import dataclasses
import functools
from typing import Any

import attention_cases
import chex
import flops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, TOLERANCE, WIDER, Case, check, literal, make, reference_of
from further import further

from star_jax import attention
from star_jax.attention import Segment, dispatch, xla

ALL = CASES + WIDER
Run = tuple[Case, str, int | None]
RUNS: list[Run] = [(case, "float32", None) for case in CASES]
RUNS += [(case, "float32", 0) for case in ALL]
HALF: list[Run] = [
    (case, "bfloat16", 0) for case in CASES if case.name not in ("mha", "tiny prefix")
]
HALF += [(case, "float16", 0) for case in CASES if case.name in ("prefix", "decode with tail")]
HALF += [(case, "bfloat16", 0) for case in WIDER if case.name.startswith(("three", "soft cap and"))]


def label(run):
    case, dtype, small = run
    return f"{case.name}-{dtype}-{'auto' if small is None else 'tiled'}".replace(" ", "-")


@pytest.mark.parametrize(
    ("case", "dtype", "small"),
    [*RUNS, *HALF[:4], *further(*HALF[4:])],
    ids=map(label, RUNS + HALF),
)
def test_xla_equals_the_reference(case, dtype, small, monkeypatch):
    if small is not None:
        monkeypatch.setattr(xla, "SMALL_SCORES", small)
        monkeypatch.setattr(xla, "FEW_QUERIES", small)
    arrays, options = make(case, dtype)
    run = functools.partial(attention.partial_attention, implementation="xla", **options)
    check(jax.jit(run)(**arrays), reference_of(arrays, options), TOLERANCE[dtype])


@pytest.mark.parametrize("case", ALL, ids=[case.name.replace(" ", "-") for case in ALL])
def test_the_reference_is_attention_as_it_is_defined(case):
    arrays, options = make(case, "float32")
    check(reference_of(arrays, options), literal(arrays, options), 2e-6)


@pytest.mark.parametrize("averaging", [("reference", "xla"), *further((("reference",),))])
@pytest.mark.parametrize("small", [0, *further(None)])
@pytest.mark.parametrize(
    "name", ["decode with tail", "prefix half hidden", "no keys at all", "mqa"]
)
def test_keys_are_averaged_behind_values(name, small, averaging, monkeypatch):
    """Also where an implementation has no way to do both at once."""
    monkeypatch.setattr(dispatch, "AVERAGE_KEYS", averaging)
    if small is not None:
        monkeypatch.setattr(xla, "SMALL_SCORES", small)
        monkeypatch.setattr(xla, "FEW_QUERIES", small)
    arrays, options = make(next(case for case in ALL if case.name == name), "float32")
    of_keys = arrays | {"segments": [dataclasses.replace(s, v=s.k) for s in arrays["segments"]]}
    values, keys = (reference_of(some, options) for some in (arrays, of_keys))
    run = functools.partial(attention.partial_attention, with_keys=True, **options)
    for implementation in ("xla", "reference"):
        found = jax.jit(functools.partial(run, implementation=implementation))(**arrays)
        check(found._replace(out=found.out[..., : values.out.shape[-1]]), values, 2e-6)
        check(found._replace(out=found.out[..., values.out.shape[-1] :]), keys, 2e-6)


MANY_KEYS = [  # more than are read at a time
    Case("own heads", 1, 1100, N=3, K=3, causal=False, length=(1100, 700)),
    Case("one head of keys", 1, 1100, N=4, K=1, causal=False, length=(513, 1)),
    Case("some queries", 3, 1100, N=6, causal=False, length=(1003, 8)),
    Case("a window", 2, 1100, N=6, offset=(1000, 40), window=600, soft_cap=3.0),
]


@pytest.mark.parametrize("with_keys", [False, True], ids=["values", "with keys"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", MANY_KEYS, ids=[case.name for case in MANY_KEYS])
def test_few_queries_read_many_keys(case, dtype, with_keys):
    arrays, options = make(case, dtype)
    run = functools.partial(attention.partial_attention, implementation="xla", **options)
    found = jax.jit(functools.partial(run, with_keys=with_keys))(**arrays)
    values = reference_of(arrays, options)
    width = values.out.shape[-1]
    check(found._replace(out=found.out[..., :width]), values, TOLERANCE[dtype])
    if with_keys:
        of_keys = arrays | {"segments": [dataclasses.replace(s, v=s.k) for s in arrays["segments"]]}
        keys = reference_of(of_keys, options)
        check(found._replace(out=found.out[..., width:]), keys, TOLERANCE[dtype])


def test_a_length_beyond_the_keys_counts_none_of_them_twice():
    """The last tile overlaps its neighbour: what both have must count once."""
    case = Case("lengths beyond the keys", 600, 700, causal=False, length=(768, 900))
    arrays, options = make(case, "float32")
    whole = [dataclasses.replace(s, length=None) for s in arrays["segments"]]
    expected = reference_of(arrays | {"segments": whole}, options)
    run = functools.partial(attention.partial_attention, implementation="xla", **options)
    check(jax.jit(run)(**arrays), expected, TOLERANCE["float32"])


def test_the_reference_is_softmax_attention():
    """The reference itself against jax.nn, whose causal mask is the same at offset 0."""
    arrays, options = make(Case("", 50, 50), "float32")
    q, (own,) = arrays.values()
    expected = jax.nn.dot_product_attention(q, own.k, own.v, is_causal=True, scale=options["scale"])
    chex.assert_trees_all_close(reference_of(arrays, options).out, expected, atol=1e-5, rtol=1e-7)


def test_an_lse_gap_of_200_between_segments(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    arrays, options = attention_cases.make_gap("float32")
    expected = reference_of(arrays, options)
    actual = attention.partial_attention(**arrays, **options, implementation="xla")
    assert float(expected.lse.max()) > 200
    check(actual, expected, 2e-6)


def causal(q, k, v, **options):
    own = Segment(k, v, causal=True, **options)
    return attention.partial_attention(q, [own], scale=1.0, implementation="xla")


def test_memory_is_linear_in_queries_times_tile():
    """Scores of all pairs would be S / tile times as large as what the program may use."""
    T, N, K, H = 8192, 8, 2, 64
    q, k = (jax.ShapeDtypeStruct((1, T, n, H), jnp.bfloat16) for n in (N, K))
    program = jax.jit(causal).lower(q, k, k).compile()
    scores = T * T * N * 4
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < scores / 8


@pytest.mark.parametrize("length", [512, 2048, 5000, 16384])
def test_little_is_wasted_on_the_diagonal(length):
    """Matmul work over that of the pairs that a causal mask leaves: an eighth, less for many."""
    q, k = (jax.ShapeDtypeStruct((1, length, n, 64), jnp.float32) for n in (8, 2))
    work = flops.matmul_flops(jax.jit(causal).trace(q, k, k))
    needed = 4 * 8 * 64 * length * (length + 1) / 2
    assert needed < work <= needed * (1 + max(1 / 8, 512 / length))


def test_what_is_not_finite_stays_in_its_row(monkeypatch):
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    arrays, options = make(Case("", 130, 130), "float32")
    expected = reference_of(arrays, options)
    arrays["q"] = arrays["q"].at[0].set(jnp.nan)
    actual = attention.partial_attention(**arrays, **options, implementation="xla")
    assert np.isnan(actual.out[0]).all()
    chex.assert_trees_all_close(actual.out[1], expected.out[1], atol=1e-5, rtol=1e-7)


@pytest.mark.parametrize("window", [256, 1024, 4096])
def test_a_window_leaves_out_the_tiles_that_it_hides(window):
    """Work grows with the window, and not with the keys: its edge and the diagonal cost tiles."""
    length = 16384
    q, k = (jax.ShapeDtypeStruct((1, length, n, 64), jnp.float32) for n in (8, 2))
    run = jax.jit(functools.partial(causal, window=window))
    work = flops.matmul_flops(run.trace(q, k, k))
    pairs = length * window - window * (window - 1) / 2
    assert 4 * 8 * 64 * pairs < work <= 4 * 8 * 64 * pairs * 1.4


def test_keys_behind_the_window_are_not_read(monkeypatch):
    """They are NaN, which a weight of 0 does not hide: whole tiles of them are skipped."""
    monkeypatch.setattr(xla, "SMALL_SCORES", 0)
    for case in (
        Case("few queries", 3, 2048, causal=False, offset=(1900, 1800), window=200),
        Case("a tile of queries", 64, 2048, offset=(1984, 1900), window=200),
    ):
        arrays, options = make(case, "float32")
        (own,) = arrays["segments"]
        expected = reference_of(arrays, options)
        v = own.v.at[:, :1024].set(jnp.nan)
        own = Segment(own.k, v, causal=own.causal, offset=own.offset, window=own.window)
        actual = attention.partial_attention(arrays["q"], [own], **options, implementation="xla")
        check(actual, expected, 2e-6)


OWN: dict[str, Any] = {"k": jnp.zeros((2, 3, 2, 32)), "v": jnp.zeros((2, 3, 2, 32))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "fast"}, "implementation='fast'"),
        ({"q": jnp.zeros((2, 3, 5, 32))}, "5 query heads"),
        ({"q": jnp.zeros((1, 3, 4, 32))}, r"\(2, 3, 2, 32\).* does not fit q.*\(1, 3, 4, 32\)"),
        ({"q": jnp.zeros((2, 3, 4, 16))}, "does not fit q"),
        ({"soft_cap": 0.0}, r"soft_cap=0\.0 must be above 0"),
        ({"soft_cap": float("nan")}, "soft_cap=nan must be above 0"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"q": jnp.zeros((2, 3, 4, 32)), "segments": [Segment(**OWN)], "scale": 1.0}
    arguments: dict[str, Any] = {**given, "implementation": "xla", **change}
    with pytest.raises(ValueError, match=message):
        attention.partial_attention(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": jnp.zeros((2, 4, 2, 32))}, r"v \(2, 4, 2, 32\) must be as its k \(2, 3, 2, 32\)"),
        ({"k": jnp.zeros((3, 2, 32))}, "k"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"length": jnp.zeros(3, int)}, r"length of shape \(3,\)"),
        ({"offset": jnp.zeros((2, 1), int)}, r"offset of shape \(2, 1\)"),
    ],
)
def test_a_segment_that_cannot_be_is_named(change, message):
    """Also one of several."""
    segments = [Segment(**OWN), Segment(**{**OWN, **change}), Segment(**OWN)]
    q = jnp.zeros((2, 3, 4, 32))
    with pytest.raises(ValueError, match=message):
        attention.partial_attention(q, segments, scale=1.0, implementation="xla")


def test_segments_of_unlike_heads_are_refused():
    one = jnp.zeros((2, 3, 1, 32))
    segments = [Segment(**OWN), Segment(one, one)]
    q = jnp.zeros((2, 3, 4, 32))
    with pytest.raises(ValueError, match="key heads"):
        attention.partial_attention(q, segments, scale=1.0, implementation="xla")


def test_no_segments_are_no_keys():
    q = jnp.zeros((2, 3, 4, 32))
    part = attention.partial_attention(q, [], scale=1.0, implementation="xla")
    assert not part.out.any() and np.isneginf(part.lse).all()
    assert part.out.shape == q.shape and part.lse.shape == q.shape[:3]
    wide = attention.partial_attention(q, [], scale=1.0, implementation="xla", with_keys=True)
    assert wide.out.shape == (2, 3, 4, 64) and wide.lse.shape == q.shape[:3]


def test_a_segment_goes_through_jit():
    """Its arrays are traced, and what it says of the mask is static."""
    own = Segment(**OWN, causal=True, window=2)
    found = jax.jit(lambda s: dataclasses.replace(s, k=s.k + 1))(own)
    assert found.causal is True and found.window == 2 and found.length is None
    assert (found.k == 1).all() and (found.v == 0).all()


def test_a_scale_that_is_not_positive_is_refused():
    """Scores are scaled after the highest is found."""
    arrays, options = make(Case("", 3, 3), "float32")
    arguments = {**arrays, **options, "scale": -1.0}
    with pytest.raises(NotImplementedError, match=r"scale=-1\.0"):
        attention.partial_attention(**arguments, implementation="xla")
