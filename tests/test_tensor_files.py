"""Safetensors files and their index: every byte is accounted for, and nothing leads elsewhere."""

import dataclasses
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import chex
import ml_dtypes
import numpy as np
import pytest
from odd_files import ODD
from safetensors.numpy import save_file
from test_checkpoint import CONFIG, INDEX, SINGLE, arrays, load, refusal, save, save_sharded

import star_jax
from star_jax import checkpoint
from star_jax.checkpoint import tensor_files


def test_slices_are_read_in_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any slice of whole heads, in pieces of any size."""
    whole = np.random.default_rng(0).normal(size=(6, 4, 10)).astype(ml_dtypes.bfloat16)
    save_file({"q": whole.reshape(24, 10), "o": whole.reshape(6, 40)}, tmp_path / SINGLE)
    tensors = tensor_files.scan(str(tmp_path)).tensors
    indexes = [(), (slice(2, 5),), (slice(1, 2), slice(None), slice(3, 9)), (slice(3, 3),)]
    for piece in (1, 50, 10**9):
        monkeypatch.setattr(tensor_files, "_PIECE", piece)
        for dtype in (np.dtype(np.float32), whole.dtype):
            for index in indexes:
                found = tensor_files.read(tensors["q"], index, dtype, shape=whole.shape)
                chex.assert_trees_all_equal(found, whole[index].astype(dtype))
            shape, index = (6, 5, 8), (slice(1, 6), slice(2, 4), slice(None))
            found = tensor_files.read(tensors["o"], index, dtype, shape=shape)
            chex.assert_trees_all_equal(found, whole.reshape(shape)[index].astype(dtype))
    with pytest.raises(ValueError, match="cut a head"):
        tensor_files.read(tensors["q"], (slice(0, 1), slice(1, 2)), dtype, shape=whole.shape)


def rewrite(path: pathlib.Path, change: Callable[[dict[str, Any]], str | None]) -> None:
    """Changes a file's header, or gives it the text of another; the bytes stay."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    text = (change(header) or json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


NORM, LAST = "model.norm.weight", "model.layers.1.input_layernorm.weight"


def _field(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[NORM].update({name: value})


def _as_another(header: dict[str, Any]) -> None:
    header[NORM]["data_offsets"] = header[LAST]["data_offsets"]


def _swapped_and_shifted(header: dict[str, Any]) -> None:
    begin, end = header[NORM]["data_offsets"]
    header[NORM]["data_offsets"] = [begin + 4, end + 4]


def _twice(header: dict[str, Any]) -> str:
    text = json.dumps(header)
    return f'{text[:-1]}, "{NORM}": {json.dumps(header[NORM])}}}'


def _nan(header: dict[str, Any]) -> str:
    return json.dumps(header | {NORM: header[NORM] | {"shape": [math.nan]}})


HEADERS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "overlapping": _as_another,
    "shifted": _swapped_and_shifted,
    "a hole": lambda header: header.pop(NORM) and None,
    "negative offsets": _field("data_offsets", [-256, 0]),
    "float offsets": _field("data_offsets", [0.0, 256.0]),
    "three offsets": _field("data_offsets", [0, 256, 256]),
    "offsets beyond 64 bits": _field("data_offsets", [0, 2**70]),
    "offsets as text": _field("data_offsets", ["0", "256"]),
    "no offsets": _field("data_offsets", None),
    "a negative shape": _field("shape", [-1, -64]),
    "a float shape": _field("shape", [64.0]),
    "a shape that is none": _field("shape", 64),
    "a shape that overflows": _field("shape", [2**63, 2**63]),
    "a nested shape": _field("shape", [[64]]),
    "NaN": _nan,
    "a dtype that is no word": _field("dtype", 7),
    "a name twice": _twice,
    "nested": lambda header: '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a list, nested": lambda header: "[" * 100_000 + "]" * 100_000,
    "not an object": lambda header: "7",
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_does_not_account_for_its_bytes_is_refused(
    case: str, tmp_path: pathlib.Path
) -> None:
    save(tmp_path, arrays())
    rewrite(tmp_path / SINGLE, HEADERS[case])
    message = refusal(tmp_path)
    assert message.startswith(f"checkpoint {tmp_path}: {SINGLE}: ")
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 101 * 2**20])
def test_a_header_longer_than_its_file_is_refused(length: int, tmp_path: pathlib.Path) -> None:
    path = save(tmp_path, arrays()) / SINGLE
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert f"{SINGLE}: torn: " in refusal(tmp_path)


def test_nothing_of_the_files_steers_the_terminal(tmp_path: pathlib.Path) -> None:
    evil = "\x1b]0;title\x07\u202e"
    save(tmp_path, arrays() | {evil: np.ones(3, np.float32)})
    assert refusal(tmp_path).endswith(": \\x1b]0;title\\x07\\u202e: unknown")
    (tmp_path / SINGLE).unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {evil: evil}}))
    assert refusal(tmp_path).isprintable()


def test_a_thousand_million_layers_are_one_line_at_once(tmp_path: pathlib.Path) -> None:
    save(tmp_path, arrays())
    config = dataclasses.replace(CONFIG, num_layers=10**9)
    with pytest.raises(ValueError, match=r"layers=1000000000, and there are 2 layers$"):
        checkpoint.find(tmp_path, config, mesh=star_jax.make_mesh())


@pytest.mark.parametrize("size", ["vocab_size", "hidden_size", "intermediate_size", "head_dim"])
def test_sizes_that_the_files_do_not_have_are_one_line_at_once(
    size: str, tmp_path: pathlib.Path
) -> None:
    change: dict[str, Any] = {size: 2**31 - 2}
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(ValueError, match=r"shape .*, not .*(2147483646|17179869168)"):
        checkpoint.load(
            save(tmp_path, arrays()), config, mesh=star_jax.make_mesh(), dtype="float32"
        )


def test_many_problems_are_counted(tmp_path: pathlib.Path) -> None:
    more = {f"x{i}": np.ones(1, np.float32) for i in range(60)}
    assert refusal(save(tmp_path, arrays() | more)).endswith("unknown; and 10 more")


def test_a_file_beside_an_index_that_names_others_is_refused(tmp_path: pathlib.Path) -> None:
    save_sharded(tmp_path, arrays())
    load(tmp_path)
    save(tmp_path, arrays())
    message = refusal(tmp_path)
    assert f"{SINGLE} beside {INDEX}" in message
    assert "part-0.safetensors" in message
    assert "keep one of them" in message


@pytest.mark.parametrize("odd", ODD)
def test_an_index_that_is_no_file_is_refused(odd: str, tmp_path: pathlib.Path) -> None:
    save(tmp_path, arrays())
    ODD[odd](tmp_path / INDEX)
    assert f"{INDEX}: not a regular file" in refusal(tmp_path)


def test_parts_beside_a_single_file_are_refused_without_an_index(tmp_path: pathlib.Path) -> None:
    save(tmp_path, arrays())
    save_file({"a": np.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    message = refusal(tmp_path)
    assert f"{SINGLE} beside ['model-00001-of-00002.safetensors'], and no {INDEX}" in message
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(arrays(), SINGLE)}))
    load(tmp_path)


def test_an_index_may_name_the_single_file(tmp_path: pathlib.Path) -> None:
    save(tmp_path, arrays())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(arrays(), SINGLE)}))
    load(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {}}')
    assert f"{INDEX}: no 'weight_map'" in refusal(tmp_path)


def test_files_may_be_links_as_in_the_cache_of_the_hub(tmp_path: pathlib.Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_sharded(tmp_path / "blobs", arrays())
    for i, path in enumerate((tmp_path / "blobs").iterdir()):
        (tmp_path / "snapshot" / path.name).symlink_to(path.rename(path.with_name(f"blob{i}")))
    load(tmp_path / "snapshot")


@pytest.mark.parametrize(
    "file",
    ["../{}", "sub/{}", "{directory}/{}", "./{}", "..", "", "a\\{}", "{}\0", 7, None, ["{}"]],
)
def test_an_index_may_not_lead_out_of_the_directory(file: Any, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "here"
    (directory / "sub").mkdir(parents=True)
    for folder in (tmp_path, directory, directory / "sub"):
        save_file(arrays(), folder / "w.safetensors")
    if isinstance(file, str):
        file = file.replace("{directory}", str(directory)).replace("{}", "w.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(arrays(), file)}))
    message = refusal(directory)
    assert f"{INDEX}: weight_map " in message
    assert message.isprintable()


def test_a_tensor_lies_where_the_index_puts_it(tmp_path: pathlib.Path) -> None:
    save_sharded(tmp_path, arrays())
    index = json.loads((tmp_path / INDEX).read_text())
    name = next(n for n, f in index["weight_map"].items() if f == "part-0.safetensors")
    index["weight_map"][name] = "part-1.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    said = f"{name}: in part-0.safetensors, and {INDEX} puts it in part-1.safetensors"
    assert said in refusal(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    save_sharded(tmp_path, arrays())
    for name in ("part-1.safetensors", INDEX):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(
            (ValueError, FileNotFoundError), match=r"not a regular|only safetensors"
        ):
            load(tmp_path)
