"""Checkpoints that cannot be used, at the command lines: one line, soon, and nothing left."""

import json
import pathlib
import struct
import time
from collections.abc import Callable
from typing import Any

import commands
import pytest
from command_folder import evaluate, files, fill, infer

EVIL = "\x1b]0;title\x07"
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


def _config(**fields: Any) -> Callable[[pathlib.Path], None]:
    def spoil(folder: pathlib.Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def _header(change: Callable[[dict[str, Any]], str | None]) -> Callable[[pathlib.Path], None]:
    def spoil(folder: pathlib.Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        text = (change(header) or json.dumps(header)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return spoil


def _overlap(header: dict[str, Any]) -> None:
    names = [f"model.layers.0.{kind}_layernorm.weight" for kind in ("input", "post_attention")]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]


def _text(name: str, text: str) -> Callable[[pathlib.Path], None]:
    def spoil(folder: pathlib.Path) -> None:
        (folder / name).write_text(text)

    return spoil


def _index(file: str) -> Callable[[pathlib.Path], None]:
    index = {"weight_map": {"model.norm.weight": file}}
    return _text("model.safetensors.index.json", json.dumps(index))


# What is wrong, and what is said of it; found before weights are read, by all commands.
EARLY: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "many layers": (_config(num_hidden_layers=10**9), "num_hidden_layers=1000000000 must be"),
    "no heads": (_config(num_attention_heads=0), "num_attention_heads=0 must be above 0"),
    "EOS": (_config(eos_token_id=99999999999), "99999999999 is no token id"),
    "eps": (_config(rms_norm_eps=float("nan")), "rms_norm_eps=nan must be a number above 0"),
    "theta": (_config(rope_theta=10**400), "must be a number above 0"),
    "escape codes": (_config(**{EVIL: 1}), "unknown fields ['\\x1b]0;title\\x07']"),
    "nested config": (_text("config.json", DEEP), "config.json: not read: its JSON is nested"),
    "nested generation": (_text("generation_config.json", DEEP), "generation_config.json: not"),
}
# Found when the weights are looked at.
LATE: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "overlapping": (_header(_overlap), "model.safetensors: torn: invalid offset for tensor"),
    "nested header": (_header(lambda header: DEEP), "recursion limit exceeded"),
    "more layers": (_config(num_hidden_layers=999), "num_hidden_layers=999, and there are"),
    "vocabulary": (_config(vocab_size=2**31 - 1), "not (2147483647, "),
    "two sources": (_index("other.safetensors"), "model.safetensors beside model.safetensors.i"),
    "outside": (_index("../secret"), "leads out of the directory, to '../secret'"),
    "nested index": (_text("model.safetensors.index.json", DEEP), "index.json: not read: its"),
}


@pytest.fixture(name="here")
def _here(tmp_path: pathlib.Path) -> pathlib.Path:
    return fill(tmp_path)


def refused(here: pathlib.Path, said: str, run: Callable[[], commands.Result]) -> None:
    before, begin = files(here), time.monotonic()
    error = run().error
    assert time.monotonic() - begin < 60  # on a busy machine; a hang is minutes
    assert said in error
    assert error.isprintable()
    assert len(error) < 1500
    assert files(here) == before


@pytest.mark.parametrize("case", [*EARLY, *LATE])
def test_convert_refuses(case: str, here: pathlib.Path) -> None:
    spoil, said = (EARLY | LATE)[case]
    spoil(here / "checkpoint")
    argv = ("--input=checkpoint", "--output=out")
    refused(here, said, lambda: commands.run(here, "star_jax.convert", *argv))


@pytest.mark.parametrize("case", [*EARLY, *LATE])
def test_infer_refuses(case: str, here: pathlib.Path) -> None:
    spoil, said = (EARLY | LATE)[case]
    spoil(here / "checkpoint")
    refused(here, said, lambda: infer(here))


@pytest.mark.parametrize("case", ["many layers", "EOS", "overlapping", "more layers", "outside"])
def test_eval_refuses(case: str, here: pathlib.Path) -> None:
    spoil, said = (EARLY | LATE)[case]
    spoil(here / "checkpoint")
    refused(here, said, lambda: evaluate(here))
