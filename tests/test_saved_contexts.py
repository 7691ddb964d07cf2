"""Contexts that were saved: loaded on any mesh with the same keys, and refused where they must."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Context, Engine, OtherAnchor, Ring, Star
from star_jax.cache import about, digest
from star_jax.checkpoint import orbax_files

STAR = Star(block_size=32, anchor_size=8)
MENDED = Star(block_size=32, anchor_size=8, halo=8, correction="both", stride=8)
QUERY = [1, 2, 3]


@functools.cache
def engine(kind: Any = STAR, *, context: int = 1, data: int = 1, tensor: int = 1) -> Engine:
    mesh = star_jax.make_mesh(context=context, data=data, tensor=tensor)
    return Engine(tiny.model(), mesh=mesh, attention=kind)


def ask(e: Engine, context: Any) -> Any:
    return e.generate(context, QUERY, max_new_tokens=6)


def same_keys(e: Engine, context: Any, other: Engine, expected: Any) -> None:
    assert context.tokens == expected.tokens
    for row in range(len(expected.tokens)):
        for ours, theirs in zip(
            tiny.kept(e, context, row), tiny.kept(other, expected, row), strict=True
        ):
            for one, two in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", [MENDED, Ring(), *further(STAR)], ids=lambda kind: kind.label)
def test_a_context_of_eight_devices_is_asked_on_fewer(kind: Any, tmp_path: pathlib.Path) -> None:
    e = engine(kind, context=8)
    context = e.prefill(tiny.ids(300))
    context.save(tmp_path / "saved")
    for other in (engine(kind, context=4), engine(kind), engine(kind, context=2, tensor=4)):
        loaded = other.load_context(tmp_path / "saved")
        assert isinstance(loaded, Context)
        same_keys(other, loaded, e, context)
        if kind is STAR:  # others' keys are asked by the same programs
            assert ask(other, loaded) == ask(e, context)
        assert repr(loaded).split(", mesh")[0] == repr(context).split(", mesh")[0]
    # Heads that a mesh repeats are there once for any other.
    loaded.save(tmp_path / "again")
    same_keys(e, e.load_context(tmp_path / "again"), e, context)


@pytest.mark.long
def test_a_batch_that_was_cut(tmp_path: pathlib.Path) -> None:
    """In two groups, with a row of padding."""
    e, other = engine(context=2, data=2), engine(context=4)
    batch = e.prefill([tiny.ids(n, seed=n) for n in (900, 60, 250)]).prefix(240)
    batch.save(tmp_path / "saved")
    loaded = other.load_context(tmp_path / "saved")
    assert len(loaded.groups) == 2 and loaded.is_batch
    same_keys(other, loaded, e, batch)
    assert ask(other, loaded) == ask(e, batch)


@pytest.mark.long
def test_the_turns_of_a_dialogue_are_saved(tmp_path: pathlib.Path) -> None:
    e, other = engine(context=4), engine(context=2, tensor=4)
    generation = e.start(e.prefill(tiny.ids(100)), QUERY, max_new_tokens=5, ignore_eos=True)
    list(generation)
    context = generation.context
    assert context.has_turns
    context.save(tmp_path / "saved")
    loaded = other.load_context(tmp_path / "saved")
    assert loaded.has_turns and loaded.tokens == context.tokens
    assert ask(other, loaded) == ask(e, context)
    assert other.score(loaded, QUERY) == pytest.approx(e.score(context, QUERY), abs=1e-5)


@pytest.mark.parametrize("more", [100, *further(5)])
def test_a_loaded_context_is_extended_as_one_that_was_never_saved(
    more: int, tmp_path: pathlib.Path
) -> None:
    e, other = engine(context=2), engine(context=4)
    ids = tiny.ids(300 + more)
    e.prefill(ids[:300]).save(tmp_path / "saved")
    loaded = other.load_context(tmp_path / "saved")
    assert isinstance(loaded, Context)
    extended = other.extend(loaded, ids[300:])
    whole = other.prefill(ids)
    for ours, theirs in zip(tiny.kept(other, extended), tiny.kept(other, whole), strict=True):
        assert tiny.difference(np.stack(ours), np.stack(theirs)) < 1e-5
    assert ask(other, extended) == ask(other, whole)


def test_a_model_with_windows(tmp_path: pathlib.Path) -> None:
    model = tiny.model()
    model.config = dataclasses.replace(model.config, window=11, windowed=frozenset({1}))
    whole = jax.sharding.PartitionSpec()
    engines = []
    for n in (8, 2):
        mesh = star_jax.make_mesh(context=n)
        weights = jax.device_put(model, jax.sharding.NamedSharding(mesh, whole))
        engines.append(Engine(weights, mesh=mesh, attention=STAR))
    context = engines[0].prefill(tiny.ids(200))
    context.save(tmp_path / "saved")
    loaded = engines[1].load_context(tmp_path / "saved")
    assert ask(engines[1], loaded) == ask(engines[0], context)


def test_files_hold_the_keys_and_little_more(tmp_path: pathlib.Path) -> None:
    model = tiny.model(num_attention_heads=2, num_key_value_heads=2, head_dim=128)
    e = Engine(model, mesh=star_jax.make_mesh(context=2), attention=Star(block_size=512))
    context = e.prefill(tiny.ids(4000))
    context.save(tmp_path / "saved")
    keys = sum(x.nbytes for x in jax.tree.leaves(context.groups[0].cache.layers))
    size = sum(p.stat().st_size for p in (tmp_path / "saved").rglob("*") if p.is_file())
    assert keys < size < 1.01 * keys + 50_000


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("contexts") / "saved"
    engine().prefill(tiny.ids(70)).save(path)
    return path


def refused(e: Engine, path: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        e.load_context(path)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700 and os.path.basename(path) in said
    return said


def test_another_model_is_named(saved: pathlib.Path) -> None:
    mesh = star_jax.make_mesh()
    other = Engine(tiny.model(seed=1), mesh=mesh, attention=STAR)
    assert "weights" in refused(other, saved)
    smaller = Engine(tiny.model(num_hidden_layers=1), mesh=mesh, attention=STAR)
    assert "config.num_layers 2 there, 1 here" in refused(smaller, saved)
    half = Engine(tiny.model(dtype="bfloat16"), mesh=mesh, attention=STAR)
    assert "dtype 'float32' there, 'bfloat16' here" in refused(half, saved)


def test_an_engine_of_another_kind_may_ask(saved: pathlib.Path) -> None:
    e, ring = engine(), engine(Ring())
    loaded = ring.load_context(saved)
    assert isinstance(loaded, Context)
    assert ask(ring, loaded) == ask(e, e.load_context(saved))
    with pytest.raises(ValueError, match="encoded by Star"):
        ring.extend(loaded, QUERY)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "format is 2": lambda f: f.update(format=2),
    "groups not there": lambda f: f.pop("groups"),
    "lengths=": lambda f: f.update(lengths=[10**12]),
    "batch=": lambda f: f.update(batch="yes"),
    "rows=": lambda f: f["groups"][0].update(rows=[1]),
    "encoded=": lambda f: f["groups"][0].update(encoded=[71]),
    "starts=": lambda f: f["groups"][0].update(starts=[[0, 64]]),
    "size=": lambda f: f["groups"][0].update(size=0),
    "turns=": lambda f: f["groups"][0].update(turns=1),
    "groups=": lambda f: f["groups"][0].update(more=1),
    "block_size=": lambda f: f.update(attention={"name": "star", "block_size": -1}),
    "attention={'name': 'x": lambda f: f.update(attention={"name": "x"}),
    "not the tokens, keys": lambda f: f["attention"].update(halo=8),
    "attention=[]": lambda f: f.update(attention=[]),
    "fingerprint=": lambda f: f.update(fingerprint=[]),
    "config": lambda f: f["fingerprint"].pop("config"),
    "tokens.0": lambda f: (f.update(lengths=[71]), f["groups"][0].update(encoded=[71])),
    "arrays do not fit": lambda f: f["groups"][0].update(turns=True),
    "no room": lambda f: f["groups"][0].update(starts=[[i * 32] for i in range(5)]),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_star_jax_does_not_write_is_refused(
    said: str, saved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "changed"
    shutil.copytree(saved, path)
    fields = json.loads((path / about.ABOUT).read_text())
    CHANGES[said](fields)
    (path / about.ABOUT).write_text(json.dumps(fields))
    message = refused(engine(), path)
    assert said.split("=")[0] in message, message


def test_torn_files_are_refused(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    files = [p.relative_to(saved) for p in saved.rglob("*") if p.is_file()]
    found: list[str] = []
    for i, name in enumerate(files):
        for act in ("gone", "cut", "noise"):
            path = tmp_path / f"{i}-{act}"
            shutil.copytree(saved, path)
            file = path / name
            content = file.read_bytes()
            if act == "gone":
                file.unlink()
            elif act == "cut":
                file.write_bytes(content[: len(content) // 2])
            else:
                file.write_bytes(np.random.default_rng(i).bytes(len(content)))
            if act != "noise":
                refused(engine(), path)
                continue
            try:
                loaded = engine().load_context(path)
            except ValueError:
                found.append(name.name)
            else:  # nothing is read from this file
                same_keys(engine(), loaded, engine(), engine().prefill(tiny.ids(70)))
    assert {"context.json", "keys_files.json", "manifest.ocdbt", "_METADATA"} < set(found)
    assert len(found) > 5  # there is data among them


def test_what_is_no_saved_context(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    assert "is not a directory" in refused(engine(), tmp_path / "nothing")
    assert "is not a directory" in refused(engine(), tmp_path / "file")
    assert "holds no saved context" in refused(engine(), tmp_path / "empty")
    with pytest.raises(ValueError, match="path is empty"):
        engine().load_context("")


def test_what_cannot_be_saved_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("text")
    context = engine().prefill(tiny.ids(40))
    for name, said in {
        "file": "is there already",
        "other": "is there already",
        "not/there": "is not a directory",
        "file/in": "is not a directory",
    }.items():
        with pytest.raises(ValueError, match=said):
            context.save(tmp_path / name)
    with pytest.raises(ValueError, match="path is empty"):
        context.save("")
    anchors = engine().with_attention(OtherAnchor(block_size=16, anchor_size=16, content="random"))
    with pytest.raises(NotImplementedError, match="random"):
        anchors.prefill(tiny.ids(40)).save(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_a_save_that_fails_leaves_what_was_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, path = engine(), tmp_path / "saved"
    first, second = e.prefill(tiny.ids(40)), e.prefill(tiny.ids(50))
    first.save(path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(orbax_files, "write_list", full)
        with pytest.raises(OSError, match="could not be written: No space left"):
            second.save(path)
    assert os.listdir(tmp_path) == ["saved"]
    assert e.load_context(path).tokens == first.tokens
    second.save(path)
    assert e.load_context(path).tokens == second.tokens
    assert os.listdir(tmp_path) == ["saved"]


KILLED = """
import os, sys
sys.path.insert(0, "tests")
import tiny, star_jax
from star_jax.cache import writing
from star_jax.checkpoint import orbax_files
module, name, after = sys.argv[2:5]
module = {"writing": writing, "orbax_files": orbax_files, "os": os}[module]
original = getattr(module, name)
def killed(*args, **options):
    if name == "rename" and not args[1].endswith(".old"):  # Orbax renames too
        return original(*args, **options)
    if after == "after":
        original(*args, **options)
    os._exit(9)
mesh = star_jax.make_mesh()
e = star_jax.Engine(tiny.model(), mesh=mesh, attention=star_jax.Star(block_size=32))
context = e.prefill(tiny.ids(50))
setattr(module, name, killed)
context.save(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (("orbax_files", "write_list", "before"), True),
        pytest.param(("os", "rename", "after"), False, marks=pytest.mark.long),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_save_that_is_killed_leaves_the_old_one_or_nothing(
    where: tuple[str, str, str], left: bool, tmp_path: pathlib.Path
) -> None:
    e, path = engine(), tmp_path / "saved"
    e.prefill(tiny.ids(40)).save(path)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), *where],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 9, run.stderr
    if left:
        assert e.load_context(path).tokens == [tiny.ids(40)]
    else:
        assert not path.exists()


def test_many_layers_on_many_devices_are_hashed() -> None:
    """Simulated devices wait for each other for ever where many all-reduces are in flight."""
    (group,) = engine(context=2, tensor=4).prefill(tiny.ids(300)).groups
    deep = group.cache._replace(layers=tuple(group.cache.layers) * 100)
    hashes = {
        digest.of_group(dataclasses.replace(group, cache=deep), num_kv_heads=2, encoding=None)
        for _ in range(3)
    }
    assert len(hashes) == 1
