"""`python -m star_jax.models`: which families there are, and whether a checkpoint is of one."""

import json
import pathlib
from typing import Any

import commands
import eight_bits
import llamas
import published
import pytest

from star_jax import models


def run(here: pathlib.Path, *argv: str) -> commands.Result:
    return commands.run(here, "star_jax.models", *argv)


def save(here: pathlib.Path, fields: dict[str, Any]) -> None:
    (here / "checkpoint").mkdir()
    (here / "checkpoint" / "config.json").write_text(json.dumps(fields))


def test_every_family_is_listed_with_the_fields_that_it_reads(tmp_path: pathlib.Path) -> None:
    result = run(tmp_path)
    assert (result.code, result.stderr) == (0, "")
    lines = {line.split(" ")[0]: line for line in result.stdout.splitlines()}
    common = set(lines["All"].removeprefix("All read ").rstrip(".").split(", "))
    assert "hidden_size" in common
    for family in models.families().values():
        _, _, own = lines[family.name].partition("; reads ")
        assert family.models in lines[family.name]
        assert common | set(own.split(", ") if own else ()) == family.read


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-8B", "SmolLM3-3B", "Qwen3-30B-A3B"])
def test_a_checkpoint_is_supported(tmp_path: pathlib.Path, name: str) -> None:
    """Its weights need not be there."""
    save(tmp_path, published.CONFIGS[name])
    result = run(tmp_path, "--model=checkpoint")
    fields, (parameters, _) = published.CONFIGS[name], published.COUNTS[name]
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == (
        f"checkpoint: supported, as {fields['model_type']}: {parameters:,} parameters, "
        f"{fields['num_hidden_layers']} layers, {fields['max_position_embeddings']} positions\n"
    )


def test_layers_with_windows_are_counted(tmp_path: pathlib.Path) -> None:
    """As the README says of this model, and of others."""
    save(tmp_path, published.CONFIGS["gemma-3-27b-it"])
    result = run(tmp_path, "--model=checkpoint")
    assert (result.code, result.stderr) == (0, "")
    assert "gemma3: 27,009,346,304 parameters, 62 layers, " in result.stdout
    assert "52 layers have a window of 1024, exact under star" in result.stdout
    for name, windowed in (("gemma-2-9b", 21), ("Mistral-7B-v0.1", 32)):
        assert len(models.from_dict(published.CONFIGS[name]).windowed) == windowed


def test_weights_in_8_bits_are_said(tmp_path: pathlib.Path) -> None:
    kind = eight_bits.KINDS["compressed, rows"]
    save(tmp_path, {**llamas.VARIANTS["llama-3"], "quantization_config": kind.config})
    result = run(tmp_path, "--model=checkpoint")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith("checkpoint: supported, as llama: ")
    assert result.stdout.endswith(" positions; weights in FP8, dequantised on load\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2' is not supported, only 'llama' or"),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not supported"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "quant_method='gptq' is not supported, only 'compressed-tensors' or",
        ),
        ({"new_field": 1}, "unknown fields ['new_field']"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: pathlib.Path, change: dict[str, Any], said: str
) -> None:
    save(tmp_path, {**llamas.VARIANTS["llama-3"], **change})
    result = run(tmp_path, "--model=checkpoint")
    assert result.code == 1
    assert said in result.error


@pytest.mark.parametrize("source", ["", "nowhere", "no/such/place"])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path: pathlib.Path, source: str) -> None:
    assert f"'{source}' is not a directory" in run(tmp_path, f"--model={source}").error
