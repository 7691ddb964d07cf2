"""What commands and the engine say of a tokenizer that does not fit, or that has odd names."""

import json
import pathlib
from typing import Any

import fake_engine
import pytest

import star_jax
from star_jax.runs import cli


def test_an_engine_warns_of_a_tokenizer_that_does_not_fit(tmp_path: pathlib.Path) -> None:
    fake_engine.save_checkpoint(tmp_path, weights=True)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "\u0120the"}))
    with pytest.warns(UserWarning, match="EOS, 'Ġthe' .*does not end an answer"):
        star_jax.Engine.from_pretrained(
            tmp_path,
            mesh=star_jax.make_mesh(context=1),
            attention=star_jax.Dense(),
            dtype="float32",
        )


def test_a_command_ends_in_one_line_without_escape_codes(monkeypatch: Any) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ValueError("no field '\x1b[2J\x07'\nand more")

    monkeypatch.setattr(cli.app, "run", fail)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda argv: None)
    assert caught.value.code == r"error: no field '\x1b[2J\x07' and more"
