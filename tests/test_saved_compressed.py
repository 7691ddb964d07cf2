"""Contexts in 8 bits that were saved: loaded on any mesh, their keys are the same, bit for bit."""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tiny
from further import further
from test_compressed import as_plain
from test_saved_contexts import MENDED, QUERY, STAR, same_keys

import star_jax
from star_jax import Context, Engine, Ring, Star
from star_jax.cache import about
from star_jax.cache.compressed import KINDS
from star_jax.checkpoint import orbax_files
from star_jax.store import Store


@functools.cache
def engine(
    kind: Any = STAR,
    cache: str | None = "int8",
    *,
    context: int = 1,
    data: int = 1,
    tensor: int = 1,
    dtype: str = "float32",
) -> Engine:
    mesh = star_jax.make_mesh(context=context, data=data, tensor=tensor)
    e = Engine(tiny.model(dtype=dtype), mesh=mesh, attention=kind)
    return e.with_cache(cache)


def score(e: Engine, context: Any) -> Any:
    return e.score(context, QUERY)


def same(e: Engine, context: Any, other: Engine, expected: Any) -> None:
    """What the numbers stand for is bit for bit the same."""
    for one in (context, expected):
        assert {group.cache.kind for group in one.groups} == {KINDS[one.fingerprint.cache]}
    same_keys(e, as_plain(context), other, as_plain(expected))


@pytest.mark.parametrize(
    ("kind", "cache", "dtype"),
    [
        (MENDED, "fp8", "bfloat16"),
        (Ring(), "int8", "float32"),
        *further((STAR, "int8", "float32"), (Star(block_size=100), "int8", "bfloat16")),
        *further((star_jax.Dense(), "fp8", "float32")),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_a_context_of_eight_devices_is_asked_on_fewer(
    kind: Any, cache: str, dtype: str, tmp_path: pathlib.Path
) -> None:
    """Those of a ring are dealt out otherwise there: fewer keys have scales in common."""
    e = engine(kind, cache, context=8, dtype=dtype)
    context = e.prefill(tiny.ids(300))
    context.save(tmp_path / "saved")
    others = [{"context": 4}, {}, {"context": 2, "tensor": 4}]
    if not isinstance(kind, Star):
        others.append({"context": 3})
    for axes in others:
        other = engine(kind, cache, dtype=dtype, **axes)
        loaded = other.load_context(tmp_path / "saved")
        assert isinstance(loaded, Context)
        same(other, loaded, e, context)
        assert tiny.difference(score(other, loaded), score(e, context)) < (
            1e-5 if dtype == "float32" else 0.05
        )
        assert repr(loaded).split(", mesh")[0] == repr(context).split(", mesh")[0]
        # Heads and scales that this mesh repeats are there once for any other.
        loaded.save(tmp_path / "again")
        same(e, e.load_context(tmp_path / "again"), e, context)


def test_a_batch_that_was_cut_and_its_turns(tmp_path: pathlib.Path) -> None:
    """In two groups, with a row of padding, within a block and behind the last one."""
    e, other = engine(context=2, data=2), engine(context=4)
    batch = e.prefill([tiny.ids(n, seed=n) for n in (900, 60, 250)])
    for length in (240, 10):
        cut = batch.prefix(length)
        cut.save(tmp_path / "saved")
        loaded = other.load_context(tmp_path / "saved")
        assert len(loaded.groups) == 2 and loaded.is_batch
        same(other, loaded, e, cut)
    generation = e.start(batch.prefix(100), QUERY, max_new_tokens=5, ignore_eos=True)
    generation.finish()
    told = generation.context
    told.save(tmp_path / "saved")
    loaded = other.load_context(tmp_path / "saved")
    assert loaded.has_turns and loaded.tokens == told.tokens
    for ours, theirs in zip(score(other, loaded), score(e, told), strict=True):
        assert tiny.difference(ours, theirs) < 1e-5


@pytest.mark.parametrize(("length", "more"), [(300, 100), *further((300, 5), (20, 100))])
def test_a_loaded_context_is_extended_as_one_that_was_never_saved(
    length: int, more: int, tmp_path: pathlib.Path
) -> None:
    e, other = engine(context=2), engine(context=4)
    ids = tiny.ids(length + more)
    e.prefill(ids[:length]).save(tmp_path / "saved")
    loaded = other.load_context(tmp_path / "saved")
    assert isinstance(loaded, Context)
    # By an engine that keeps its own contexts otherwise, too.
    for one in (other, other.with_cache(None)):
        extended = one.extend(loaded, ids[length:])
        expected = other.extend(other.prefill(ids[:length]), ids[length:])
        same(other, extended, other, expected)


def test_files_take_half_of_the_bytes(tmp_path: pathlib.Path) -> None:
    fields: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128}
    model = tiny.model(dtype="bfloat16", **fields)
    e = Engine(model, mesh=star_jax.make_mesh(context=2), attention=Star(block_size=512))
    sizes = []
    for cache in (None, "fp8"):
        path = tmp_path / str(cache)
        e.with_cache(cache).prefill(tiny.ids(4096)).save(path)
        sizes.append(sum(p.stat().st_size for p in path.rglob("*") if p.is_file()))
    assert 0.5 * sizes[0] < sizes[1] < 0.53 * sizes[0]


def test_an_implementation_without_8_bits_refuses_a_saved_context(tmp_path: pathlib.Path) -> None:
    e = engine()
    e.prefill(tiny.ids(70)).save(tmp_path / "saved")
    other = e.with_cache(None)
    other.runtime = dataclasses.replace(other.runtime, implementation="cudnn")
    with pytest.raises(NotImplementedError, match="implementation='cudnn' has no attention over"):
        other.load_context(tmp_path / "saved")


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        (None, "not fit"),
        ("fp8", "which the model's keys are not"),
        ("int4", "cache_dtype='int4'"),
        (["int8"], "fingerprint="),
    ],
)
def test_what_star_jax_does_not_write_is_refused(
    cache: object, said: str, tmp_path: pathlib.Path
) -> None:
    e = engine()
    e.prefill(tiny.ids(70)).save(tmp_path / "saved")
    file = tmp_path / "saved" / about.ABOUT
    fields = json.loads(file.read_text())
    fields["fingerprint"]["cache"] = cache
    file.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=said) as caught:
        e.load_context(tmp_path / "saved")
    assert "saved" in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_changed_are_noticed(tmp_path: pathlib.Path) -> None:
    """A file with one of its bits changed is refused, or that byte is not read."""
    e, saved = engine(), tmp_path / "saved"
    context = e.prefill(tiny.ids(70))
    context.save(saved)
    # Orbax leaves copies of the data that are not read: which file is read, its name does not say.
    large = [p for p in (saved / "keys").rglob("*") if p.is_file() and p.stat().st_size > 8000]
    refused = 0
    for n, data in enumerate(large):
        for i in range(4):
            path = tmp_path / f"{n}-{i}"
            shutil.copytree(saved, path)
            file = path / data.relative_to(saved)
            content = bytearray(file.read_bytes())
            content[(2 * i + 1) * len(content) // 8] ^= 1
            file.write_bytes(content)
            try:
                loaded = e.load_context(path)
            except ValueError:
                refused += 1
            else:
                same(e, loaded, e, context)
    assert refused, large


def test_a_group_is_read_without_its_neighbours(tmp_path: pathlib.Path) -> None:
    """Also by one device, and from host memory, where arrays are in one piece."""
    fields: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 128, "num_hidden_layers": 1}
    e = Engine(tiny.model(**fields), mesh=star_jax.make_mesh(), attention=Star(block_size=512))
    context = e.with_cache("int8").prefill(tiny.ids(4096 * 4))
    context.save(tmp_path / "saved")
    tensor = orbax_files.scan(str(tmp_path / "saved"), about.KEYS)[0]["0.0.k"]
    assert tensor.shape == (1, 32, 512, 2, 128) and tensor.chunk == (1, 1, 512, 2, 128)


@pytest.mark.parametrize("cache", KINDS)
def test_a_store_saves_them_and_keeps_other_kinds_apart(cache: str, tmp_path: pathlib.Path) -> None:
    e = engine(STAR, cache, context=2)
    plain, context = e.with_cache(None), e.prefill(tiny.ids(130))
    first = Store(e, device_bytes=0, directory=tmp_path)
    first.add(context)
    with pytest.raises(ValueError, match="encodes otherwise"):
        first.add(plain.prefill(tiny.ids(130)))
    assert len(Store(plain, device_bytes=0, directory=tmp_path)) == 0
    found = Store(e, device_bytes=0, directory=tmp_path).find(tiny.ids(130))
    assert found is not None
    same(e, found, e, context)
    np.testing.assert_array_equal(score(e, found), score(e, context))
