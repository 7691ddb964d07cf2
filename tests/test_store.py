"""The store of contexts: found by their tokens, spilled by age, the same when they come back."""

import functools
import gc
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import tiny

import star_jax
from star_jax import Context, Engine, Ring, Star
from star_jax.store import Bytes, Store

QUERY = [1, 2, 3]
LENGTH = 128  # tokens: 64 on each device, in two layers of two heads of 16 float32, k and v
EACH = 64 * 2 * 2 * 16 * 4 * 2
MORE = 64  # bytes that say how many keys are valid, and the like


@functools.cache
def engine(kind: Any = Star(block_size=32, anchor_size=8)) -> Engine:  # noqa: B008
    return Engine(tiny.model(), mesh=star_jax.make_mesh(context=2), attention=kind)


def ids(seed: int) -> list[int]:
    return [seed, *tiny.ids(LENGTH - 1, seed)]


def encoded(seed: int) -> Context:
    return engine().prefill(ids(seed))


def answer(context: Context | None) -> list[int]:
    assert context is not None
    return engine().generate(context, QUERY, max_new_tokens=5).tokens


def store(contexts: int, **more: Any) -> Store:
    return Store(engine(), device_bytes=contexts * EACH + MORE, **more)


def places(s: Store) -> list[str]:
    """Where the contexts are, the least recently used first."""
    return [
        "+".join(place for place in ("device", "host", "path") if getattr(entry, place))
        for entry in s._entries
    ]


def test_the_longest_shared_beginning_is_found() -> None:
    s = store(3)
    assert s.find(ids(1)) is None
    for seed in (1, 2):
        s.add(encoded(seed))
    longer = [*ids(1), 5, 6]
    assert engine().prefill(longer).tokens == [longer]
    found = s.find(longer)
    assert found is not None and found.tokens == [ids(1)]
    half = s.find([*ids(2)[:50], 127, 126])
    assert half is not None and half.tokens == [ids(2)[:50]]
    assert answer(half) == answer(engine().prefill(ids(2)[:50]))
    assert s.find([*ids(2)[:50], 127], least=51) is None
    assert s.find([127]) is None and s.find([]) is None


def test_contexts_spill_by_age_and_come_back_the_same(tmp_path: pathlib.Path) -> None:
    s = store(1, host_bytes=2 * EACH + MORE, directory=tmp_path)
    expected = {}
    for seed in (1, 2, 3):
        context = encoded(seed)
        expected[seed] = answer(context)
        s.add(context)
    assert places(s) == ["path", "host", "device"]
    assert answer(s.find(ids(1))) == expected[1]
    assert places(s) == ["path", "host", "device+path"]
    assert answer(s.find(ids(3))) == expected[3]
    assert answer(s.find(ids(2))) == expected[2]
    # What is on disk already is not written again.
    written = sorted(os.listdir(tmp_path))
    assert answer(s.find(ids(1))) == expected[1]
    assert len(s) == 3 and set(written) <= set(os.listdir(tmp_path))
    held = s.bytes
    assert EACH <= held.device <= EACH + MORE and held.host <= 2 * EACH + MORE


def test_without_a_directory_the_oldest_is_forgotten() -> None:
    s = store(1, host_bytes=2 * EACH + MORE)
    for seed in (1, 2, 3):
        s.add(encoded(seed))
    assert places(s) == ["host", "device"] and s.find(ids(1)[:5]) is None
    s.find(ids(2))  # used: 3 goes next
    s.add(encoded(4))
    assert [entry.ids[0] for entry in s._entries] == [2, 4]


def test_what_is_spilled_leaves_the_devices() -> None:
    s, live = store(1, host_bytes=10 * EACH), []
    for seed in (1, 2, 3):
        s.add(encoded(seed))
        gc.collect()
        live.append(sum(x.nbytes for x in jax.live_arrays()))
    assert live[0] == live[1] == live[2]
    s.forget()
    gc.collect()
    freed = live[0] - sum(x.nbytes for x in jax.live_arrays())
    assert len(s) == 0 and s.bytes == Bytes(0, 0, 0) and 2 * EACH <= freed <= 2 * (EACH + MORE)


def test_a_context_that_never_fits_is_handed_out_all_the_same(tmp_path: pathlib.Path) -> None:
    s = store(0, directory=tmp_path)
    context = encoded(1)
    s.add(context)
    assert places(s) == ["path"] and s.bytes.device == s.bytes.host == 0
    for _ in range(2):
        assert answer(s.find(ids(1))) == answer(context)
        assert places(s) == ["path"]


def test_disk_has_a_bound_too(tmp_path: pathlib.Path) -> None:
    s = store(0, directory=tmp_path, disk_bytes=4 * EACH + 2 * MORE)  # each is on two devices
    for seed in (1, 2, 3):
        s.add(encoded(seed))
    assert [entry.ids[0] for entry in s._entries] == [2, 3] and len(os.listdir(tmp_path)) == 2
    s.forget(ids(2))
    assert len(os.listdir(tmp_path)) == 1
    s.forget()
    assert os.listdir(tmp_path) == []


def test_a_later_run_finds_what_was_saved(tmp_path: pathlib.Path) -> None:
    first = store(0, directory=tmp_path)
    context = encoded(1)
    first.add(context)
    other = engine(Ring())
    other.prefill(ids(2)).save(tmp_path / "other")
    engine().prefill([ids(3)]).save(tmp_path / "batch")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "context.json").write_text("{}")
    later = store(1, directory=tmp_path)
    assert places(later) == ["path"] and later.bytes.disk > 0
    assert answer(later.find(ids(1))) == answer(context)
    assert later.find(ids(2), least=2) is None
    later.forget()
    assert sorted(os.listdir(tmp_path)) == ["batch", "foreign", "other"]


def test_a_torn_file_is_forgotten_and_the_next_best_is_found(tmp_path: pathlib.Path) -> None:
    s = store(1, directory=tmp_path)
    s.add(encoded(1))
    s.add(engine().prefill(ids(1)[:100]))
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder / "keys")
    with pytest.warns(UserWarning, match="is forgotten.*torn|is forgotten"):
        found = s.find(ids(1))
    assert found is not None and found.tokens == [ids(1)[:100]]
    assert len(s) == 1 and not folder.exists()


def test_a_disk_that_takes_nothing_costs_the_context_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = store(1, directory=tmp_path)
    s.add(encoded(1))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(star_jax.checkpoint.orbax_files, "write_arrays", full)
    with pytest.warns(UserWarning, match="No space left"):
        s.add(encoded(2))
    assert places(s) == ["device"] and os.listdir(tmp_path) == []


def test_a_dialogue_is_kept_with_its_turns(tmp_path: pathlib.Path) -> None:
    generation = engine().start(encoded(1), QUERY, max_new_tokens=4)
    generation.finish()
    told = generation.context
    s = store(0, directory=tmp_path)
    s.add(told)
    found = s.find([*told.tokens[0], 9, 9])
    assert found is not None and found.tokens == told.tokens and answer(found) == answer(told)


def test_other_engines_contexts_and_batches_are_refused() -> None:
    s = store(1)
    stranger = Engine(tiny.model(1), mesh=engine().mesh, attention=engine().attention)
    theirs = stranger.prefill(ids(1))
    with pytest.raises(ValueError, match="another model"):
        s.add(theirs)
    otherwise = engine().with_attention(Ring()).prefill(ids(1))
    with pytest.raises(ValueError, match="encodes otherwise"):
        s.add(otherwise)
    batch = engine().prefill([ids(1)])
    with pytest.raises(ValueError, match="no batch"):
        s.add(batch)
    with pytest.raises(ValueError, match="device_bytes=-1"):
        Store(engine(), device_bytes=-1)


def test_the_same_tokens_take_the_place_of_the_old() -> None:
    s = store(3)
    s.add(encoded(1))
    s.add(encoded(1))
    assert len(s) == 1 and np.array_equal(next(iter(s._entries)).ids, ids(1))
