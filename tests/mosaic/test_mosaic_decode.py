"""The Hopper decode kernel against the float32 reference, in Pallas's GPU interpreter."""

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, TOLERANCE, Case, check, make, reference_of
from jax.experimental.pallas import mosaic_gpu as plgpu

from star_jax.attention import kernels
from star_jax.attention.mosaic import decode

SMALL = decode.Tuning(keys=64, stages=2, blocks=12)

ALL: list[tuple[Case, str, decode.Tuning | None]] = [
    (dataclasses.replace(c, H=64), "bfloat16", SMALL)
    for c in CASES
    if not c.causal and c.prefix is None
]
# What differs for the kernel; `tests/large` runs all.
RUNS = [run for run in ALL if run[0].name in ("one query", "lengths", "no keys at all")]
RUNS += [
    (Case("decode", 1, 1000, N=8, H=128, causal=False, length=(1000, 700)), "bfloat16", None),
    (Case("a query", 40, 600, N=8, H=128, causal=False, length=(600, 1)), "float16", SMALL),
    (Case("many rows", 100, 130, N=4, K=1, H=64, causal=False), "bfloat16", SMALL),
    (Case("odd", 3, 77, N=3, K=1, H=96, causal=False, length=(70, 77)), "bfloat16", None),
    (Case("wide", 2, 300, N=4, K=2, H=256, causal=False, length=(0, 299)), "bfloat16", None),
]


def attend(arrays, options, tuning=None):
    q, (own,) = arrays["q"], arrays["segments"]
    # Queries and output lie over each other, consumer by consumer. The detector takes them as a
    # whole, and the first one's queries and the second one's output for the same bytes.
    interpret = plgpu.InterpretGPUParams(detect_races=kernels.rows(q, own) <= decode.ROWS)
    tuning = tuning or decode.DEFAULTS[q.shape[-1]]
    score = kernels.Score(**options)
    return decode.attend(q, own, score=score, tuning=tuning, interpret=interpret)


@pytest.mark.parametrize(
    ("case", "dtype", "tuning"), RUNS, ids=[f"{c.name}-{c.H}".replace(" ", "-") for c, *_ in RUNS]
)
def test_the_kernel_equals_the_reference(case, dtype, tuning):
    arrays, options = make(case, dtype)
    check(attend(arrays, options, tuning), reference_of(arrays, options), TOLERANCE[dtype])


@pytest.mark.parametrize("blocks", [1, 40])
def test_any_number_of_parts_gives_the_same(blocks):
    case = Case("", 1, 1100, N=2, K=1, H=64, causal=False, length=(1100, 3))
    arrays, options = make(case, "bfloat16")
    tuning = decode.Tuning(keys=64, stages=3, blocks=blocks)
    assert tuning.parts(1100, 2) == {1: 1, 6: 3, 40: 5}[blocks]
    check(attend(arrays, options, tuning), reference_of(arrays, options), TOLERANCE["bfloat16"])


def test_parts_whose_lse_differ_by_200():
    arrays, options = make(Case("", 1, 600, N=2, K=1, H=64, causal=False), "bfloat16")
    peak = jnp.sign(arrays["q"][:, :, :1]) * 40
    (own,) = arrays["segments"]
    k = own.k.at[:, :256].set(peak.astype(own.k.dtype))
    arrays["segments"] = [dataclasses.replace(own, k=k)]
    expected = reference_of(arrays, options)
    assert float(expected.lse.max()) > 200
    check(attend(arrays, options, SMALL), expected, TOLERANCE["bfloat16"])


def test_keys_beyond_the_length_do_not_matter():
    case = Case("", 2, 200, N=2, K=1, H=64, causal=False, length=(70, 130))
    arrays, options = make(case, "bfloat16")
    expected = attend(arrays, options, SMALL)
    (own,) = arrays["segments"]
    beyond = np.arange(200)[None, :] >= np.asarray(case.length)[:, None]
    k, v = (jnp.where(beyond[..., None, None], 1e4, x).astype("bfloat16") for x in (own.k, own.v))
    arrays["segments"] = [dataclasses.replace(own, k=k, v=v)]
    actual = attend(arrays, options, SMALL)
    chex.assert_trees_all_equal(actual.out, expected.out)
    chex.assert_trees_all_equal(actual.lse, expected.lse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": 32}, "keys=32"),
        ({"stages": 1}, "stages=1"),
        ({"blocks": 0}, "blocks=0"),
        ({"consumers": 3}, "consumers=3"),
    ],
)
def test_tunings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_the_defaults_fit():
    for head_dim, tuning in decode.DEFAULTS.items():
        assert tuning.shared_memory(head_dim, tuning.consumers) <= decode.online.SHARED_MEMORY
