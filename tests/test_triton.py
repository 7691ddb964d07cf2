"""The Triton kernels, interpreted on CPU, against the float32 reference on the shared cases.

That they compile, and into what, is for `test_aot_triton.py`.
"""

import dataclasses
import functools

import attention_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    LATER,
    SOFT_CAPS,
    TOLERANCE,
    WINDOWS,
    Case,
    check,
    make,
    reference_of,
)
from further import further

from star_jax.attention import Partial, Segment, kernels, triton
from star_jax.attention.triton import decode, prefill

# Tiles so small that many are visited, whole ones and masked ones.
PREFILL = prefill.Tuning(queries=32, keys=64, num_warps=4, num_stages=2)
FEW = decode.Tuning(rows=32, keys=16, num_warps=4, num_stages=2, keys_per_split=64)
MANY = dataclasses.replace(FEW, rows=64, keys=32)

KERNEL_CASES = [
    dataclasses.replace(case, H=64) for case in CASES if case.prefix != 0 and case.name != "mha"
]
KERNEL_CASES += [
    Case("mha", 130, 130, N=3, K=3, H=128),
    Case("padded head", 70, 100, H=96, prefix=90, prefix_length=(90, 33)),
    Case("head of 128", 65, 129, H=128, causal=False),
    Case("widest head", 40, 70, H=256, prefix=50),
    Case("group of 5", 40, 100, N=5, K=1, H=64, causal=False, length=(100, 17)),
    Case("padded head, few", 3, 100, H=96, causal=False, length=(100, 64)),
    Case("some of a tile see none", 70, 130, H=64, offset=(-45, -10)),
    Case("longer than the keys", 40, 100, H=64, length=(1000, 64), offset=(90, 200)),
]
HALF = jnp.zeros((2, 3, 2, 64), jnp.float16)
FP16 = ("prefix", "one query", "padded head", "window and lengths")


def splits(case: Case) -> bool:
    return not case.causal and case.prefix is None


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    for head_dim in prefill.DEFAULTS:
        monkeypatch.setitem(prefill.DEFAULTS, head_dim, PREFILL)
        monkeypatch.setitem(prefill.WIDER, head_dim, PREFILL)
        monkeypatch.setitem(decode.FEW, head_dim, FEW)
        monkeypatch.setitem(decode.MANY, head_dim, MANY)


@pytest.fixture
def only_prefill(monkeypatch):
    monkeypatch.setattr(kernels, "DECODE_ROWS", 0)


def run(arrays, options):
    function = functools.partial(triton.attend, interpret=True, **options)
    quickly = {"xla_backend_optimization_level": 0}  # compiling takes longer than running
    return jax.jit(function, compiler_options=quickly)(**arrays)


def cases(some: list[Case]):
    runs = [(case, "bfloat16") for case in some]
    fp16 = [(case, "float16") for case in some if case.name in FP16]
    label = [f"{case.name}-{dtype}".replace(" ", "-") for case, dtype in runs + fp16]
    return pytest.mark.parametrize(("case", "dtype"), [*runs, *further(*fp16)], ids=label)


@cases(KERNEL_CASES)
def test_prefill_equals_the_reference(case, dtype, only_prefill):
    arrays, options = make(case, dtype)
    check(run(arrays, options), reference_of(arrays, options), TOLERANCE[dtype])


@cases([case for case in KERNEL_CASES if splits(case)])
def test_decode_equals_the_reference(case, dtype):
    arrays, options = make(case, dtype)
    check(run(arrays, options), reference_of(arrays, options), TOLERANCE[dtype])


@cases([dataclasses.replace(case, H=64) for case in LATER])
def test_later_keys_alone_equal_the_reference(case, dtype, request):
    """By the kernel that is chosen for them, and by the other one."""
    arrays, options = make(case, dtype)
    expected = reference_of(arrays, options)
    check(run(arrays, options), expected, TOLERANCE[dtype])
    request.getfixturevalue("only_prefill")
    check(run(arrays, options), expected, TOLERANCE[dtype])


@cases([dataclasses.replace(case, H=64) for case in WINDOWS + SOFT_CAPS])
def test_windows_and_soft_caps_equal_the_reference(case, dtype):
    arrays, options = make(case, dtype)
    check(run(arrays, options), reference_of(arrays, options), TOLERANCE[dtype])


@pytest.mark.parametrize("queries", [8, 200])
def test_scores_beyond_a_soft_cap(queries):
    """Far beyond it, and near 0 as well, by both kernels."""
    arrays, options = make(Case("", queries, 200, H=64, causal=queries > 8), "bfloat16", spread=4.0)
    for soft_cap in (5.0, 50.0):
        capped = options | {"soft_cap": soft_cap}
        check(run(arrays, capped), reference_of(arrays, capped), TOLERANCE["bfloat16"])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_splits_gives_the_same(count, monkeypatch):
    """Parts of the valid keys, of which one row has fewer tiles than there are splits."""
    config = dataclasses.replace(FEW, programs=10**6, keys_per_split=16, splits=count)
    monkeypatch.setitem(decode.FEW, 64, config)
    arrays, options = make(Case("", 2, 120, H=64, causal=False, length=(119, 20)), "bfloat16")
    assert decode.count_splits(4, 120, config) == count
    check(run(arrays, options), reference_of(arrays, options), TOLERANCE["bfloat16"])


def test_splits_fill_the_gpu_and_are_worth_their_merge():
    config = decode.FEW[128]
    config = dataclasses.replace(config, programs=256, keys_per_split=256, splits=64)
    assert decode.count_splits(8, 65536, config) == 32
    assert decode.count_splits(8, 1024, config) == 4
    assert decode.count_splits(8, 100, config) == 1
    assert decode.count_splits(1, 10**6, config) == 64
    assert decode.count_splits(1000, 10**6, config) == 1


def test_an_lse_gap_of_200_between_segments(only_prefill):
    arrays, options = attention_cases.make_gap("bfloat16", H=64)
    expected = reference_of(arrays, options)
    assert float(expected.lse.max()) > 200
    check(run(arrays, options), expected, TOLERANCE["bfloat16"])


@pytest.mark.parametrize("kernel", ["prefill", "decode"])
def test_keys_beyond_the_length_do_not_matter(kernel, monkeypatch):
    if kernel == "prefill":
        monkeypatch.setattr(kernels, "DECODE_ROWS", 0)
    arrays, options = make(Case("", 8, 100, H=64, causal=False, length=(70, 33)), "bfloat16")
    expected = reference_of(arrays, options)
    garbage = jnp.asarray([3e38, jnp.inf, jnp.nan, -3e38])[jnp.arange(100) % 4][:, None, None]
    (own,) = arrays["segments"]
    hidden = (jnp.arange(100) >= own.length[:, None])[..., None, None]
    k, v = (jnp.where(hidden, garbage, x).astype("bfloat16") for x in (own.k, own.v))
    arrays["segments"] = [Segment(k, v, own.length)]
    check(run(arrays, options), expected, TOLERANCE["bfloat16"])


def test_keys_far_before_a_window_are_not_read():
    """Nor those behind the last query: whole tiles of them may be NaN."""
    arrays, options = make(Case("", 40, 700, H=64, offset=(400, 300), window=70), "bfloat16")
    expected = reference_of(arrays, options)
    key = jnp.arange(700)[None, :]
    first = jnp.asarray([[320], [192]])  # of the tiles of 64 in which the window begins
    near = ((key >= first) & (key < 448))[..., None, None]
    (own,) = arrays["segments"]
    k, v = (jnp.where(near, x, jnp.nan).astype("bfloat16") for x in (own.k, own.v))
    arrays["segments"] = [dataclasses.replace(own, k=k, v=v)]
    check(run(arrays, options), expected, TOLERANCE["bfloat16"])


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_not_finite_stays_in_its_row(causal):
    arrays, options = make(Case("", 8, 40, H=64, causal=causal, offset=(32, 32)), "bfloat16")
    expected = reference_of(arrays, options)
    arrays["q"] = arrays["q"].at[0, 3, 1].set(jnp.nan)
    actual = run(arrays, options)
    bad = np.isnan(actual.out).all(axis=-1)
    assert bad[0, 3, 1] and bad.sum() == 1
    error = np.where(bad[..., None], 0, actual.out - expected.out)
    assert np.linalg.norm(error) <= 1e-2 * np.linalg.norm(expected.out)


def test_decode_takes_few_queries_that_see_all_keys(monkeypatch):
    """Rows are query tokens times heads of a group."""
    taken = []

    def take(module):
        def attend(q, *segments, **options):
            taken.append(module)
            return Partial(q, q[..., 0])

        monkeypatch.setattr(module, "attend", attend)

    take(decode)
    take(prefill)
    for case in (
        Case("", 512, 20, causal=False),
        Case("", 513, 20, causal=False),
        Case("", 1, 20),
        Case("", 1, 20, causal=False, prefix=3),
    ):
        case = dataclasses.replace(case, H=64)
        arrays, options = make(case, "bfloat16")
        triton.attend(**arrays, **options, interpret=True)
    assert taken == [decode, prefill, prefill, prefill]


@pytest.mark.parametrize(
    ("dtype", "head_dim", "change", "message"),
    [
        ("float32", 64, {}, "float32, only for"),
        ("bfloat16", 80, {}, "head_dim=80, only for"),
        ("bfloat16", 64, {"scale": -1.0}, r"scale=-1\.0"),
        ("bfloat16", 64, {"segments": [Segment(HALF, HALF)]}, "keys of float16: one dtype"),
    ],
)
def test_what_the_kernels_do_not_serve_is_named(dtype, head_dim, change, message):
    arrays, options = make(Case("", 3, 3, H=head_dim), dtype)
    with pytest.raises(NotImplementedError, match=message):
        triton.attend(**{**arrays, **options, **change})


def test_refusals_are_known_before():
    assert triton.refuses("bfloat16", 128) == triton.refuses("float16", 96) == ""
    assert "float32" in triton.refuses("float32", 128)
    assert "head_dim=32" in triton.refuses("bfloat16", 32)


@pytest.mark.parametrize("change", [{"keys": 48}, {"keys": 8}, {"num_warps": 3}, {"num_stages": 0}])
def test_sizes_that_do_not_compile_are_refused(change):
    for config in (PREFILL, FEW):
        with pytest.raises(ValueError, match=str(next(iter(change.values())))):
            dataclasses.replace(config, **change)
    with pytest.raises(ValueError, match="splits=0"):
        dataclasses.replace(FEW, splits=0)
