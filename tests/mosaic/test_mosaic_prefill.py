"""The Hopper prefill kernel against the float32 reference, in Pallas's GPU interpreter.

The interpreter runs the warpgroups as threads, with barriers, copies and shared memory as they
are on the GPU: a wait for what never comes hangs or fails here too. Only the product of weights
and values, whose left operand lies in registers, is replaced by one in jnp.
"""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
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
    make_gap,
    reference_of,
)
from further import further
from jax.experimental.pallas import mosaic_gpu as plgpu

from star_jax.attention import Partial, Segment, kernels, mosaic
from star_jax.attention.mosaic import decode, prefill
from star_jax.attention.tiles import Bounds, visited

INTERPRET = plgpu.InterpretGPUParams(detect_races=True)
SMALL = prefill.Tuning(keys=64, stages=2)  # many tiles of few keys

ALL: list[tuple[Case, str, prefill.Tuning | None]] = [
    (dataclasses.replace(c, H=64), "bfloat16", SMALL) for c in CASES if c.prefix != 0
]
# What differs for the kernel; `tests/large` runs all.
CHOSEN = ("prefix of length 0", "lengths", "no keys at all", "negative offset", "decode with tail")
RUNS = [run for run in ALL if run[0].name in CHOSEN]
RUNS += [
    (dataclasses.replace(c, H=H, N=2, K=1), dtype, None)
    for c, H, dtype in [
        (Case("causal", 300, 300), 64, "float16"),
        (Case("prefix", 256, 200, prefix=136), 96, "bfloat16"),
        (Case("offset and lengths", 100, 450, offset=(300, 0), length=(450, 40)), 128, "bfloat16"),
        (Case("lengths", 150, 400, causal=False, length=(0, 399)), 256, "float16"),
    ]
]


def attend(arrays, options, tuning=None):
    *before, own = arrays["segments"]
    return prefill.attend(
        arrays["q"],
        before[0] if before else None,
        own,
        score=kernels.Score(**options),
        tuning=tuning or prefill.DEFAULTS[own.k.shape[-1]],
        interpret=INTERPRET,
    )


@pytest.mark.parametrize(
    ("case", "dtype", "tuning"),
    RUNS,
    ids=[f"{c.name}-{c.H}-{d}".replace(" ", "-") for c, d, _ in RUNS],
)
def test_the_kernel_equals_the_reference(case, dtype, tuning):
    arrays, options = make(case, dtype)
    check(attend(arrays, options, tuning), reference_of(arrays, options), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "case",
    [
        Case("", 70, 90, H=64, prefix=72, prefix_length=(5, 72), offset=(20, -3), length=(90, 60)),
        Case("", 3, 200, H=64, causal=False, length=(200, 70)),
        Case("", 600, 40, N=2, K=1, H=64, causal=False, length=(0, 39)),
    ],
    ids=["prefill", "decode", "too many rows to decode"],
)
def test_the_implementation_hands_on_what_it_gets(case):
    arrays, options = make(case, "bfloat16")
    actual = mosaic.attend(**arrays, **options, interpret=INTERPRET)
    check(actual, reference_of(arrays, options), TOLERANCE["bfloat16"])


def test_an_lse_gap_of_200_between_segments():
    arrays, options = make_gap("bfloat16", H=64)
    expected = reference_of(arrays, options)
    assert float(expected.lse.max()) > 200
    check(attend(arrays, options, SMALL), expected, TOLERANCE["bfloat16"])


@pytest.mark.parametrize("consumers", [2, *further(1)])
def test_more_stages_than_tiles_and_fewer(consumers):
    arrays, options = make(
        Case("", 130, 264, N=1, K=1, H=64, prefix=72, offset=(134, 0)), "bfloat16"
    )
    expected = reference_of(arrays, options)
    for stages in (2, 3, 8):
        tuning = prefill.Tuning(keys=64, stages=stages, consumers=consumers)
        check(attend(arrays, options, tuning), expected, TOLERANCE["bfloat16"])


def test_each_visited_tile_is_located_once_and_those_without_a_mask_come_first():
    for prefix, length, offset, first in itertools.product(
        (0, 5, 64, 70), (0, 64, 200), (-9, 0, 90), (0, 64)
    ):
        for window in (None, 70) if first else (None,):
            bounds = Bounds(offset, length, prefix)
            rows = jnp.int32(first), jnp.int32(first + 63)
            plan = visited(*rows, bounds, tile=64, causal=True, window=window)
            begin, clear, whole, end = map(int, plan[2:])
            prefix_whole, prefix_end = map(int, plan[:2])
            in_order = [(0, j) for j in range(begin, clear)]
            in_order += [(1, j) for j in range(prefix_whole)]
            in_order += [(0, j) for j in range(clear, whole)]
            in_order += [(1, j) for j in range(prefix_whole, prefix_end)]
            in_order += [(0, j) for j in range(whole, end)]
            found = [prefill.locate(jnp.int32(i), plan) for i in range(len(in_order))]
            assert [tuple(map(int, pair)) for pair in found] == in_order


@pytest.mark.parametrize(
    ("change", "message"),
    [({"keys": 32}, "keys=32"), ({"stages": 1}, "stages=1"), ({"consumers": 3}, "consumers=3")],
)
def test_tunings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_does_not_fit_into_shared_memory_is_refused():
    arrays, options = make(Case("", 8, 8, H=256), "bfloat16")
    with pytest.raises(ValueError, match="head_dim=256"):
        attend(arrays, options, prefill.Tuning(keys=128, stages=3))


def test_the_defaults_fit():
    for head_dim, tuning in prefill.DEFAULTS.items():
        assert tuning.shared_memory(head_dim) <= prefill.online.SHARED_MEMORY


CHOSEN_LATER = ("later keys and lengths",)


@pytest.mark.parametrize("name", CHOSEN_LATER, ids=[n.replace(" ", "-") for n in CHOSEN_LATER])
def test_later_keys_alone_equal_the_reference(name, monkeypatch):
    """By the kernel that is chosen for them, and by this one."""
    [case] = [case for case in LATER if case.name == name]
    arrays, options = make(dataclasses.replace(case, H=64), "bfloat16")
    # See `test_mosaic_decode` for what the detector takes for a race.
    races_of_decode = kernels.rows(arrays["q"], arrays["segments"][0]) <= decode.ROWS
    for few, detect in ((kernels.is_few, races_of_decode), (lambda *_: False, True)):
        monkeypatch.setattr(kernels, "is_few", few)
        interpret = plgpu.InterpretGPUParams(detect_races=detect)
        part = mosaic.attend(**arrays, **options, interpret=interpret)
        check(part, reference_of(arrays, options), TOLERANCE["bfloat16"])


EDGES = (
    "block behind its window",
    "last keys, not causal",
    "soft cap and window",
    "soft cap for few rows",
)


@pytest.mark.parametrize("name", EDGES, ids=[name.replace(" ", "-") for name in EDGES])
def test_windows_and_soft_caps_equal_the_reference(name, monkeypatch):
    """Tiles at the edge of a window, and at that of a first key, by both kernels."""
    monkeypatch.setitem(prefill.DEFAULTS, 64, SMALL)
    [case] = [case for case in WINDOWS + SOFT_CAPS if case.name == name]
    arrays, options = make(dataclasses.replace(case, N=2, K=1, H=64), "bfloat16")
    part = mosaic.attend(**arrays, **options, interpret=INTERPRET)
    check(part, reference_of(arrays, options), TOLERANCE["bfloat16"])


def test_queries_beyond_the_last_are_not_returned():
    arrays, options = make(Case("", 5, 5, H=64), "bfloat16")
    part = attend(arrays, options)
    assert part.out.shape == (2, 5, 4, 64) and part.lse.shape == (2, 5, 4)
    chex.assert_tree_all_finite((part.out, part.lse))


def test_more_blocks_than_a_gpu_launches_are_refused(monkeypatch):
    """A launch is not looked at before it runs, and so not here either."""
    monkeypatch.setattr(mosaic.device_lib, "only_on_cuda", lambda q, **how: q)
    served = Partial(jnp.zeros(0), jnp.zeros(0))
    monkeypatch.setattr(prefill, "attend", lambda *args, **how: served)

    def run(q):
        return mosaic.attend(q, [Segment(q, q, causal=True)], scale=1.0, soft_cap=None)

    assert jax.eval_shape(run, jax.ShapeDtypeStruct((4095, 16, 16, 64), jnp.bfloat16)).out.size == 0
    with pytest.raises(NotImplementedError, match="65536 is above 65535, of which a GPU"):
        jax.eval_shape(run, jax.ShapeDtypeStruct((4096, 16, 16, 64), jnp.bfloat16))
