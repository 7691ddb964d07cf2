"""The Triton kernel over keys and values in 8 bits, interpreted, against what these stand for."""

import dataclasses
import functools
from typing import Any

import attention_cases
import jax
import jax.numpy as jnp
import pytest
from attention_cases import TOLERANCE, Case, check
from further import further
from test_compressed import DTYPES, segment

from star_jax.attention import Partial, Segment, for_compressed, mosaic, triton
from star_jax.attention.compressed import Scales
from star_jax.attention.triton import decode

FEW = decode.Tuning(rows=32, keys=16, num_warps=4, num_stages=2, keys_per_split=64)
MANY = dataclasses.replace(FEW, rows=64, keys=32)

CASES = [  # with the keys of a group
    (Case("one query", 1, 192, H=64, causal=False, length=(161, 17)), 64),
    (Case("groups of no whole tiles", 2, 120, H=64, causal=False, length=(119, 0)), 40),
    (Case("padded head", 3, 100, H=96, causal=False, length=(100, 64)), 100),
    (Case("more rows", 40, 130, N=5, K=1, H=64, causal=False, length=(130, 64)), 130),
    (Case("later keys", 3, 130, H=64, causal=False, begin=(70, 9), length=(130, 100)), 65),
    (Case("soft cap", 2, 96, H=128, causal=False, soft_cap=2.0), 32),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    for head_dim in decode.FEW:
        monkeypatch.setitem(decode.FEW_IN_8_BITS, head_dim, FEW)
        monkeypatch.setitem(decode.MANY_IN_8_BITS, head_dim, MANY)


def run(arrays: Any, options: Any) -> Any:
    function = functools.partial(triton.attend, interpret=True, **options)
    quickly = {"xla_backend_optimization_level": 0}  # compiling takes longer than running
    return jax.jit(function, compiler_options=quickly)(**arrays)


RUNS = [(*case, small, "bfloat16") for case in CASES for small in DTYPES]
FP16 = [(*CASES[0], small, "float16") for small in DTYPES]


@pytest.mark.parametrize(
    ("case", "group", "small", "dtype"),
    RUNS + further(*FP16),
    ids=[f"{c.name}-{small}-{t}".replace(" ", "-") for c, _, small, t in RUNS + FP16],
)
def test_the_kernel_equals_the_reference(case, group, small, dtype):
    inside, whole, options = segment(case, small, dtype, group)
    expected = attention_cases.literal(whole, options)
    check(run(inside, options), expected, 2 * TOLERANCE[dtype])  # queries are rounded twice


@pytest.mark.parametrize("small", DTYPES)
def test_large_features_do_not_overflow_in_float16(small):
    """Where a group ends within a tile, too: keys are of the dtype of the queries there."""
    case, group = CASES[1]
    inside, whole, options = segment(case, small, "float16", group)
    q = inside["q"].at[..., 3].multiply(1 / 3000)

    def larger(own: Any) -> Any:
        if own.scales is None:
            return dataclasses.replace(own, k=own.k.at[..., 3].multiply(3000))
        feature = own.scales.feature.at[..., 3].multiply(3000)
        return dataclasses.replace(own, scales=own.scales._replace(feature=feature))

    inside, whole = (
        {**arrays, "q": q, "segments": [larger(*arrays["segments"])]} for arrays in (inside, whole)
    )
    check(run(inside, options), attention_cases.literal(whole, options), 4 * TOLERANCE["float16"])


def test_all_numbers_of_e4m3_are_made_whole():
    """But NaN, which is not among those of a cache."""
    numbers = jnp.arange(256, dtype=jnp.uint8)
    small = jax.lax.bitcast_convert_type(numbers, jnp.float8_e4m3fn)
    is_number = ~jnp.isnan(small.astype("float32"))
    for dtype in ("bfloat16", "float16", "float32"):
        wide = triton.eight_bits.Scales.wider(triton.eight_bits.bits(small), dtype)
        wide = wide.astype("float32") * triton.eight_bits.LIFT[jnp.dtype("uint8")]
        assert (wide == small.astype("float32"))[is_number].all()
    assert is_number.sum() == 254


def test_what_the_kernels_do_not_serve_is_named():
    """Mosaic's are replaced by Triton's before they are asked."""
    for name in ("triton", "xla", "reference"):
        assert for_compressed(name) == name
    assert for_compressed("mosaic") == "triton"
    assert for_compressed("triton", with_keys=True) == "xla"
    inside, _, options = segment(Case("", 3, 64, H=64, causal=False), "int8", "bfloat16")
    with pytest.raises(NotImplementedError, match="mosaic has no kernel for keys in 8 bits"):
        mosaic.attend(**inside, **options)
    inside, _, options = segment(Case("", 64, 64, H=64), "int8", "bfloat16")
    with pytest.raises(NotImplementedError, match="triton serves keys in 8 bits as one segment"):
        triton.attend(**inside, **options)
    with pytest.raises(NotImplementedError, match="implementation='cudnn' has no attention over"):
        for_compressed("cudnn")


@pytest.mark.parametrize("keys", [2**21, 2**21 + 128])
def test_more_numbers_in_8_bits_than_offsets_can_count_are_refused(keys, monkeypatch):
    """JAX takes offsets of 64 bits from 2**32 bytes on, which is 2**31 numbers of 16 bits."""
    served = Partial(jnp.zeros(0), jnp.zeros(0))
    monkeypatch.setattr(triton.decode, "attend", lambda *args, **how: served)
    monkeypatch.setattr(triton.device_lib, "only_on_cuda", lambda q, **how: q)
    small = jax.ShapeDtypeStruct((1, keys, 8, 128), jnp.int8)
    scale = jax.ShapeDtypeStruct((1, keys, 8), jnp.bfloat16)
    feature = jax.ShapeDtypeStruct((1, 1, 8, 128), jnp.bfloat16)
    q = jax.ShapeDtypeStruct((1, 1, 8, 128), jnp.bfloat16)

    def run(q, k, v, scale, feature):
        own = Segment(k, v, scales=Scales(scale, scale, feature))
        return triton.attend(q, [own], scale=1.0, soft_cap=None)

    if keys > 2**21:
        with pytest.raises(NotImplementedError, match="at most 2147483648 numbers; use fewer"):
            jax.eval_shape(run, q, small, small, scale, feature)
    else:
        assert jax.eval_shape(run, q, small, small, scale, feature).out.shape == (0,)
