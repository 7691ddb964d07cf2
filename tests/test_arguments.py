"""Arguments of the library that cannot be are refused by name, before they cost anything.

Annotations, which tests check as well, would refuse some of them first: here they are not checked,
as they are not for users.
"""

import dataclasses
import os
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import chex
import jax
import numpy as np
import pytest
import test_generate
import tiny
from jax.sharding import AxisType, Mesh

from star_jax import Sampling, Star, checkpoint, checks, sizes
from star_jax.generate import inputs, sampling
from star_jax.runtime import mesh


def unchecked(f: Any) -> Any:
    """The function as users have it, without the checker of annotations."""
    while hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    return f


def kind(value: Any) -> str:
    """For names of tests: 10**5000 has too many digits for one."""
    return type(value).__name__


class Odd:
    def __repr__(self):
        return "odd\n\x1b[31m"


class Mute:
    def __repr__(self):
        raise RuntimeError("no words")


ODD = [np.zeros((40, 40)), Odd(), Mute(), [10**5000], list(range(10**4))]
NO_NUMBERS = [None, True, np.True_, 2.0, 2.5, np.float32(2), "2", b"2", float("nan"), [2], 2j, *ODD]
TOO_MUCH = [0, -1, -(2**63), 2**31, 10**12, 10**5000, np.int64(2**40), np.uint64(2**63)]


@pytest.mark.parametrize("value", NO_NUMBERS + TOO_MUCH, ids=kind)
def test_no_size(value):
    with pytest.raises(ValueError, match=r"^lengths=.* must be ") as e:
        unchecked(sizes.whole)("lengths", value)
    assert len(str(e.value)) < 120 and str(e.value).isprintable()


@pytest.mark.parametrize("value", ODD, ids=kind)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Sampling)])
def test_no_sampling(name, value):
    """Whatever it is that is none, it is one line."""
    make = unchecked(sampling.parse)
    given = object.__new__(Sampling)  # dataclasses keep their checker of annotations
    for field in dataclasses.fields(Sampling):
        object.__setattr__(given, field.name, field.default)
    for one in (value, -(10**5000)):
        object.__setattr__(given, name, one)
        with pytest.raises(ValueError, match=f"^{name}=.* must be ") as e:
            unchecked(Sampling.__post_init__)(given)
        assert len(str(e.value)) < 150 and str(e.value).isprintable()
    for wrong in (value, {Odd(): 1}):
        with pytest.raises(ValueError, match=r"^sampling") as e:
            make(wrong)
        assert len(str(e.value)) < 180 and str(e.value).isprintable()


@pytest.mark.parametrize("context", [None, [1, 2], "text", np.zeros(3, int), *ODD], ids=kind)
def test_contexts_that_are_none(asked, context):
    e, _, query = asked
    for call in (
        lambda: unchecked(type(e).generate)(e, context, query, max_new_tokens=1),
        lambda: unchecked(type(e).stream)(e, context, query, max_new_tokens=1),
        lambda: unchecked(type(e).score)(e, context, query),
        lambda: unchecked(type(e).likelihood)(e, context, query),
    ):
        with pytest.raises((ValueError, TypeError), match="context") as error:
            call()
        assert "prefill" in str(error.value) or isinstance(error.value, TypeError)


@pytest.mark.parametrize("path", [None, True, 5, 2.5, b"checkpoints/needle", ["needle"]], ids=kind)
def test_paths_that_are_none(path):
    with pytest.raises(ValueError, match=r"^path=.* must be a directory"):
        unchecked(checkpoint.resolve)(path)


@pytest.mark.parametrize("value", [1, 7, np.int8(7), np.uint64(7), 2**31 - 1])
def test_a_size(value):
    found = sizes.whole("lengths", value)
    assert type(found) is int and found == value


@pytest.fixture(scope="module")
def asked():
    e = test_generate.engine()
    return e, e.prefill(tiny.ids(100)), tiny.ids(5, seed=1)


@pytest.mark.parametrize("value", [None, *TOO_MUCH], ids=kind)
def test_every_size_is_checked(asked, value):
    e, context, _ = asked
    calls = {
        "max_new_tokens": lambda: unchecked(inputs.limits)(value, None, (), has_tokenizer=True),
        "window": lambda: unchecked(type(e).score_document)(e, tiny.ids(50), window=value),
        "length": lambda: unchecked(type(context).prefix)(context, value),
        "block_size": lambda: Star(block_size=value),
        "the mesh axis data": lambda: unchecked(mesh.make_mesh)(data=value),
        "the mesh axis tensor": lambda: unchecked(mesh.make_mesh)(tensor=value),
        "cpu_devices": lambda: unchecked(mesh.simulate_cpu_devices)(value),
    }
    if value is not None:  # or it is one
        calls["samples"] = lambda: unchecked(inputs.samples)(value)
    if value not in (None, 0):  # no anchor
        calls["anchor_size"] = lambda: Star(block_size=8, anchor_size=value)
    start = time.monotonic()
    for name, call in calls.items():
        # Dataclasses keep their checker of annotations, which raises an error of its own.
        with pytest.raises((ValueError, TypeError), match=name):
            call()
    assert time.monotonic() - start < 5


def test_none_is_no_limit_and_no_window(asked):
    """Both were one, silently."""
    e, context, query = asked
    nothing: Any = None
    for call in (
        lambda: e.generate(context, query, max_new_tokens=nothing),
        lambda: e.stream(context, query, max_new_tokens=nothing),
        lambda: e.score_document(tiny.ids(50), window=nothing),
    ):
        with pytest.raises((ValueError, TypeError), match="None"):
            call()


def test_a_billion_samples_cost_nothing(asked):
    e, context, query = asked
    tracemalloc.start()
    try:
        for number in (10**9, 2**16 + 1):
            with pytest.raises(ValueError, match=f"samples={number} must be at most 65536"):
                e.generate(context, query, max_new_tokens=1, samples=number)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, -1], "from -1 to 1"),
        ([1, 2**31], "2147483648"),
        ([2**70], "must be a list of token ids"),
        (np.asarray([2**63], np.uint64), "9223372036854775808"),
        (np.asarray([1.0, 2.0]), "must be a list"),
        (jax.numpy.ones(3), "must be a list"),
        ([1.0, 2.0], "must be a list"),
        ([float("nan")], "must be a list"),
        ([True, False], "must be a list"),
        ([True, 5], "must be a list"),
        ([5, np.True_], "must be a list"),
        (np.asarray([True, False]), "must be a list"),
        ([None, 1], "must be a list"),
        ("text", "is text"),
        (b"text", "is text"),
        (bytearray(b"text"), "is text"),
        (memoryview(b"text"), "is text"),
        (["text"], "context 0 must be a list"),
        ([b"text", b"x"], "is text|must be a list"),
        ([[1], "x"], "context 1 must be a list"),
        ([[1], bytearray(b"x")], "context 1 must be a list"),
        ([[[1], [2, 3]]], "context 0 must be a list"),
        (np.asarray([3], "m8[s]"), "must be a list"),
        (np.asarray(["2026-01-01"], "M8[D]"), "must be a list"),
        ({1: 2}, "must be a list"),
        ({1, 2}, "must be a list"),
        (iter([1, 2]), "must be a list"),
        (np.zeros((2, 2, 2), int), "context 0 must be a list"),
        (np.zeros((0, 3), int), "is empty"),
        (np.zeros((2, 0), int), "context 0 is empty"),
        (None, "must be a list"),
        (5, "must be a list"),
        (range(2**31), "2147483648 entries"),
    ],
)
def test_ids_that_are_none(asked, ids, message):
    with pytest.raises(ValueError, match=message) as e:
        asked[0].prefill(ids)
    assert str(e.value).startswith("context ")


STOPS: list[Any] = ["x", b"x", 5, True, [5], [""], ["a", None], np.asarray(5), *ODD]


@pytest.mark.parametrize("stop", STOPS, ids=kind)
def test_stop_words_that_are_none(stop):
    with pytest.raises(ValueError, match=r"^stop=") as e:
        unchecked(inputs.limits)(1, stop, (), has_tokenizer=True)
    assert len(str(e.value)) < 120 and str(e.value).isprintable()


def test_stop_words_may_be_an_array():
    words = np.asarray(["a", "b"])
    assert unchecked(inputs.limits)(1, words, (), has_tokenizer=True).stop == ("a", "b")


@pytest.mark.parametrize("token", [-1, 2**31, 99999999999, 2.5, None])
def test_eos_that_is_no_token(token):
    with pytest.raises(ValueError, match="eos_token_id="):
        unchecked(inputs.limits)(1, None, (2, token), has_tokenizer=True)


@pytest.mark.parametrize("eos", [5, None, "5", [[5]], *ODD[:3]], ids=kind)
def test_eos_tokens_that_are_no_list(eos):
    with pytest.raises(ValueError, match=r"eos_token_ids=.* must be a list"):
        unchecked(inputs.limits)(1, None, eos, has_tokenizer=True)


def test_eos_tokens_may_be_an_array():
    assert unchecked(inputs.limits)(1, None, np.asarray([5]), has_tokenizer=True).eos == (5,)


def test_meshes_that_cannot_be():
    make, devices = unchecked(mesh.make_mesh), jax.devices()
    for some in (5, "5", b"5", True, [5], [None], ["cpu"], {}, np.asarray(5), *ODD):
        with pytest.raises(ValueError, match=r"^devices=.* must be a list of JAX devices"):
            make(devices=some)
    assert make(devices=np.asarray(devices)).size == 1
    wrong: dict[str, dict[str, Any]] = {
        "data=1.5": {"data": 1.5},
        "context='2'": {"context": "2"},
        "tensor=True": {"tensor": True},
        "data=nan": {"data": float("nan")},
        "asks for 4 devices, and there are 0": {"data": 4, "devices": []},
        "device twice": {"data": 2, "devices": devices[:1] * 2},
        "asks for 10000000000 devices": {"data": 100000, "context": 100000},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            make(**options)
    assert make(data=np.int64(2), context=np.int8(2)).shape == {
        "data": 2,
        "context": 2,
        "tensor": 1,
    }


def test_meshes_of_others_are_refused():
    """They may have axes of another type, and then programs fail in words of their own."""
    grid = np.asarray(jax.devices()[:2]).reshape(1, 2, 1)
    for found in (None, "mesh", *ODD, Mesh(grid, mesh.AXES, axis_types=(AxisType.Explicit,) * 3)):
        with pytest.raises(ValueError, match=r"make it with star_jax\.make_mesh") as e:
            unchecked(checks.check)(found, Star(block_size=8), None)
        assert str(e.value).isprintable()


def test_sizes_of_numpy_do_not_overflow(asked):
    """128 * 2 devices is more than an int8 holds."""
    e, _, query = asked
    given = object.__new__(Star)
    object.__setattr__(given, "block_size", np.int8(127))
    object.__setattr__(given, "anchor_size", np.int8(3))
    unchecked(Star.__post_init__)(given)
    small = e.with_attention(given)
    plain = e.with_attention(Star(block_size=127, anchor_size=3))
    ids = tiny.ids(600)
    chex.assert_trees_all_equal(
        small.score(small.prefill(ids), query), plain.score(plain.prefill(ids), query)
    )
    assert repr(small.attention) == "Star(block_size=127, anchor_size=3)"


def test_too_many_or_too_late_devices_change_nothing():
    """A hundred thousand are refused at once; and where JAX runs, it says so, and goes on."""
    code = """
import os, time, jax, star_jax
before = dict(os.environ)
for count in (100_000, 1025, 0, True, 2.0, None):
    try:
        star_jax.simulate_cpu_devices(count)
    except ValueError as e:
        assert "cpu_devices=" in str(e), e
    else:
        raise SystemExit(f"{count} was accepted")
star_jax.simulate_cpu_devices(3)
assert len(jax.devices()) == 3
try:
    star_jax.simulate_cpu_devices(4)
except RuntimeError as e:
    print(e)
"""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "jax_num_cpu_devices" in run.stdout
