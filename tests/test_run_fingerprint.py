"""The fingerprint of a checkpoint covers the files that are read, and no others."""

import json
import os
import pathlib

import numpy as np
import pytest
from test_checkpoint import FIELDS, INDEX, SINGLE, arrays, save, save_sharded

from star_jax import checkpoint
from star_jax.checkpoint import orbax_files
from star_jax.runs import hashes


@pytest.fixture(name="here")
def _here(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkpoint in several files, all of them links, as in the hub's cache."""
    blobs, here = tmp_path / "blobs", tmp_path / "here"
    blobs.mkdir()
    here.mkdir()
    save_sharded(blobs, arrays())
    (blobs / "config.json").write_text(json.dumps(FIELDS))
    (blobs / "tokenizer.json").write_text("{}")
    for path in list(blobs.iterdir()):
        (here / path.name).symlink_to(path)
    return here


def test_it_changes_with_every_file_that_is_read_behind_links_too(here: pathlib.Path) -> None:
    expected = hashes.of_checkpoint(str(here))
    assert hashes.of_checkpoint(f"{here}/") == expected
    paths = sorted(here.iterdir())
    assert len(paths) == 6
    for path in paths:
        kept = path.read_bytes()
        for change in (kept[:-1] + bytes([kept[-1] ^ 1]), kept + b" "):
            path.write_bytes(change)  # through the link
            assert hashes.of_checkpoint(str(here)) != expected, path
        path.write_bytes(kept)
    assert hashes.of_checkpoint(str(here)) == expected


def test_a_file_that_the_index_names_is_read_whatever_its_name(here: pathlib.Path) -> None:
    index = json.loads((here / INDEX).read_text())
    (here / "part-1.safetensors").rename(here / "second")
    names = {n: f.replace("part-1.safetensors", "second") for n, f in index["weight_map"].items()}
    (here / INDEX).write_text(json.dumps({"weight_map": names}))
    assert str(here / "second") in checkpoint.weight_files(here)
    before = hashes.of_checkpoint(str(here))
    content = bytearray((here / "second").read_bytes())
    content[-1] ^= 1
    (here / "second").write_bytes(content)
    assert hashes.of_checkpoint(str(here)) != before


def test_files_that_are_not_read_do_not_count(here: pathlib.Path) -> None:
    before = hashes.of_checkpoint(str(here))
    for name in ("other.safetensors", "out.jsonl", "x.safetensors.index.json", "pytorch_model.bin"):
        (here / name).write_bytes(b"x")
    os.mkfifo(here / "tokenizer.pipe")
    (here / "weights").mkdir()
    assert hashes.of_checkpoint(str(here)) == before


@pytest.mark.parametrize("most", [2**29, 2**21])
def test_a_damaged_stretch_of_weights_shows(
    tmp_path: pathlib.Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has 20 MB: anywhere, where all is read; else if it is as long as its share of them."""
    monkeypatch.setattr(hashes, "_MOST", most, raising=False)
    path = tmp_path / SINGLE
    content = np.random.default_rng(0).bytes(20_000_000)
    path.write_bytes(content)
    before = hashes.of_checkpoint(str(tmp_path))
    share = 1 if most > len(content) else 2**16 * 10
    for start in np.random.default_rng(1).integers(len(content) - share, size=20):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(255 - byte for byte in content[start : start + share]))
        assert hashes.of_checkpoint(str(tmp_path)) != before, start
        path.write_bytes(content)
    assert hashes.of_checkpoint(str(tmp_path)) == before


def test_a_single_file_counts_and_none_is_no_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    none = hashes.of_checkpoint(str(tmp_path))
    save(tmp_path, arrays())
    some = hashes.of_checkpoint(str(tmp_path))
    changed = arrays() | {"model.norm.weight": np.full(64, 7, np.float32)}
    save(tmp_path, changed)
    assert len({none, some, hashes.of_checkpoint(str(tmp_path))}) == 3
    assert checkpoint.weight_files(tmp_path) == [str(tmp_path / SINGLE)]


def test_folders_of_a_converted_checkpoint_may_be_links(tmp_path: pathlib.Path) -> None:
    weights, far = tmp_path / orbax_files.WEIGHTS, tmp_path / "far"
    weights.mkdir()
    far.mkdir()
    (weights / "manifest.ocdbt").write_bytes(b"x")
    (weights / "d").symlink_to(far)
    for name in ("circle", "another"):
        (far / name).symlink_to(weights)
    (far / "data").write_bytes(b"x")
    before = hashes.of_checkpoint(str(tmp_path))
    (far / "data").write_bytes(b"y")
    assert hashes.of_checkpoint(str(tmp_path)) != before
