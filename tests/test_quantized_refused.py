"""Weights in fewer bits that are not read: each refusal is one line that says what to do."""

import copy
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import eight_bits
import ml_dtypes
import numpy as np
import pytest
from eight_bits import KINDS, Tensors, compressed, fp8
from test_checkpoint import FIELDS, SINGLE, arrays, refusal, save, save_sharded

import star_jax
from star_jax import checkpoint, models
from star_jax.checkpoint import tensor_files
from star_jax.models import quantization

PLAIN = "take the repository with the plain weights that it was made from, or dequantise it"


def config_refusal(section: Any, error: type[Exception]) -> str:
    with pytest.raises(error, match=r"config\.json: quantization_config") as found:
        models.from_dict(FIELDS | {"quantization_config": section})
    assert "\n" not in str(found.value)
    return str(found.value)


METHODS = """
    aqlm auto-round awq bitnet bitsandbytes eetq fp_quant gguf gptq higgs hqq modelopt mxfp4 nvfp4
    quanto quark spqr torchao vptq
""".split()


@pytest.mark.parametrize("method", [*METHODS, "", None, 8, ["fp8"], {}])
def test_other_methods_are_refused_by_name(method: Any) -> None:
    message = config_refusal({"quant_method": method, "bits": 4}, NotImplementedError)
    assert f"quant_method={method!r} is not supported, only 'compressed-tensors' or" in message
    assert PLAIN in message


@pytest.mark.parametrize("section", [{"bits": 4, "group_size": 64}, [], 0.25, "fp8", math.nan])
def test_a_section_without_a_method_is_refused(section: Any) -> None:
    message = config_refusal(section, NotImplementedError)
    assert f"quantization_config={section!r} is not supported" in message
    assert PLAIN in message


def _packed() -> dict[str, Any]:
    return {
        **compressed("group", num_bits=4, type="int", group_size=128),
        "format": "pack-quantized",
    }


def _groups(*groups: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(compressed("tensor"))
    found["config_groups"] = {
        f"group_{i}": group["config_groups"]["group_0"] for i, group in enumerate(groups)
    }
    return found


CONFIGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "e5m2": (fp8(fmt="e5m2"), NotImplementedError, "fmt='e5m2'"),
    "FP4 experts": (fp8((128, 128), expert_dtype="fp4"), NotImplementedError, "expert_dtype='fp4'"),
    "an embedding": (fp8(modules_to_convert=["a"]), NotImplementedError, "modules_to_convert="),
    "unknown": (fp8(mystery=1), ValueError, "unknown fields ['mystery']"),
    "a block of one": (fp8(weight_block_size=[128]), ValueError, "weight_block_size=[128] must"),
    "a block of none": (fp8((0, 128)), ValueError, "weight_block_size=[0, 128] must"),
    "a block of truth": (fp8(weight_block_size=[True, 1]), ValueError, "[True, 1] must"),
    "a block of text": (fp8(weight_block_size="128x128"), ValueError, "'128x128' must"),
    "4 bits": (_packed(), NotImplementedError, "format='pack-quantized'"),
    "4 bits in a group": (
        compressed("channel", num_bits=4, type="int"), NotImplementedError, "weights: num_bits=4",
    ),
    "groups of columns": (
        compressed("group", group_size=128), NotImplementedError, "group_size=128",
    ),
    "a strategy": (compressed("attn_head"), NotImplementedError, "strategy='attn_head'"),
    "no strategy": (compressed(""), NotImplementedError, "strategy=''"),
    "zero points": (compressed("tensor", symmetric=False), NotImplementedError, "symmetric=False"),
    "a type": (compressed("tensor", type="nf"), NotImplementedError, "type='nf'"),
    "no block": (compressed("block"), ValueError, "block_structure=None must"),
    "a block too many": (
        compressed("channel", (8, 8)), NotImplementedError, "block_structure=[8, 8]",
    ),
    "dynamic weights": (compressed("tensor", dynamic=True), NotImplementedError, "dynamic=True"),
    "unknown in a group": (compressed("tensor", mystery=1), ValueError, "unknown fields ['mystery"),
    "no groups": ({**compressed("tensor"), "config_groups": {}}, ValueError, "config_groups={}"),
    "a preset": (
        {**compressed("tensor"), "config_groups": {"FP8": ["Linear"]}},
        NotImplementedError, "config_groups: 'FP8': ['Linear'] without a section 'weights'",
    ),
    "blocks of two sizes": (
        _groups(compressed("block", (8, 8)), compressed("block", (8, 16))),
        NotImplementedError, "different block_structure",
    ),
    "two types": (
        _groups(compressed("channel"), compressed("channel", type="int")),
        NotImplementedError, "different types",
    ),
    "2 of 4": (
        {**compressed("tensor"), "sparsity_config": {"format": "sparse-24-bitmask"}},
        NotImplementedError, "sparsity_config=",
    ),
    "rotations": (
        {**compressed("tensor"), "transform_config": {"config_groups": {"u": {}}}},
        NotImplementedError, "transform_config=",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_what_changes_how_weights_are_stored_is_refused_by_name(case: str) -> None:
    section, error, said = CONFIGS[case]
    message = config_refusal(section, error)
    assert said in message
    assert error is ValueError or PLAIN in message


def test_what_concerns_activations_alone_changes_nothing() -> None:
    plain = compressed("channel")
    more = {
        **plain,
        "ignore": ["lm_head", "re:.*gate$"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
        "sparsity_config": {"format": "dense", "global_sparsity": 0.1},
        "transform_config": {},
        "version": "0.10.2",
    }
    sections = [plain, more, {**plain, "format": "naive-quantized"}]
    found = {quantization.from_fields({"quantization_config": s}) for s in sections}
    assert len(found) == 1
    assert models.from_dict(FIELDS | {"quantization_config": more}) == models.from_dict(FIELDS)
    assert models.from_dict(FIELDS | {"quantization_config": None}) == models.from_dict(FIELDS)


def test_groups_may_share_scales_in_different_ways() -> None:
    several = _groups(compressed("tensor"), compressed("channel"), compressed("block", (8, 16)))
    found = quantization.from_fields({"quantization_config": several})
    assert found is not None
    assert found.per == {"tensor", "channel", "block"}
    assert found.block == (8, 16)


Q = "model.layers.1.self_attn.q_proj"
AT = f"{Q}.weight in {SINGLE}"
SCALE = f"{Q}.weight_scale_inv in {SINGLE}"
_E4M3 = ml_dtypes.float8_e4m3fn


def _set(name: str, value: Any) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value})


def _scale(value: float) -> Callable[[Tensors], None]:
    def spoil(tensors: Tensors) -> None:
        tensors[f"{Q}.weight_scale_inv"][1, 2] = value

    return spoil


# Of matrices of 64 x 64, in blocks of 40 x 24.
TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "no scales": (
        lambda t: t.pop(f"{Q}.weight_scale_inv"),
        f"{AT} is F8_E4M3, and has no scales: it needs a tensor weight_scale_inv or weight_scale",
    ),
    "scales twice": (
        _set(f"{Q}.weight_scale", np.ones((2, 3), np.float32)),
        f"{AT} is F8_E4M3, and has {Q}.weight_scale_inv and {Q}.weight_scale: it needs a",
    ),
    "another grid": (
        _set(f"{Q}.weight_scale_inv", np.ones((2, 2), np.float32)),
        f"{SCALE}: shape (2, 2), not (2, 3), for a matrix of (64, 64)",
    ),
    "a scale for each row": (
        _set(f"{Q}.weight_scale_inv", np.ones((64, 1), np.float32)),
        f"{SCALE}: shape (64, 1), not (2, 3), for",
    ),
    "one scale": (
        _set(f"{Q}.weight_scale_inv", np.ones((), np.float32)), f"{SCALE}: shape (), not (2, 3), ",
    ),
    "scales of a dtype": (
        _set(f"{Q}.weight_scale_inv", np.ones((2, 3), ml_dtypes.float8_e8m0fnu)),
        f"{SCALE}: F8_E8M0 is not one of BF16, F16, F32",
    ),
    "infinite": (_scale(math.inf), f"{SCALE}: inf is no scale: it must be finite, and above 0"),
    "not a number": (_scale(math.nan), f"{SCALE}: nan is no scale"),
    "zero": (_scale(0.0), f"{SCALE}: 0.0 is no scale"),
    "negative": (_scale(-1.0), f"{SCALE}: -1.0 is no scale"),
    "scales of what has none": (
        _set(f"{Q}.weight", np.ones((64, 64), np.float32)),
        f"{SCALE}: {Q}.weight is F32, and has no scales",
    ),
    "another float": (
        _set("model.norm.weight", np.ones(64, ml_dtypes.float8_e5m2)),
        "model.norm.weight: F8_E5M2 is not one of BF16, F16, F32",
    ),
    "another type": (
        _set("model.norm.weight", np.ones(64, np.int8)),
        "model.norm.weight: I8 is not one of BF16, F16, F32",
    ),
    "no matrix": (
        _set("model.norm.weight", np.ones(64, _E4M3)),
        f"model.norm.weight in {SINGLE} is F8_E4M3, and no matrix: (64,)",
    ),
    "another shape": (
        _set(f"{Q}.weight", np.ones((64, 65), _E4M3)), f"{Q}.weight: shape (64, 65), not (64, 64)",
    ),
    "zero points": (
        _set(f"{Q}.weight_zero_point", np.zeros((2, 3), np.int8)),
        f"{Q}.weight_zero_point: unknown",
    ),
    "packed": (_set(f"{Q}.weight_packed", np.ones((64, 8), np.int32)), f"{Q}.weight_packed: unkn"),
}  # fmt: skip


def quantised(directory: pathlib.Path) -> Tensors:
    """A checkpoint's tensors in 8 bits, of which the configuration is there already."""
    kind = KINDS["fp8, blocks"]
    fields = FIELDS | {"quantization_config": kind.config}
    (directory / "config.json").write_text(json.dumps(fields))
    return eight_bits.quantised(kind, arrays())[0]


@pytest.mark.parametrize("case", TENSORS)
def test_scales_that_are_wrong_are_refused_with_their_file(
    case: str, tmp_path: pathlib.Path
) -> None:
    tensors = quantised(tmp_path)
    spoil, said = TENSORS[case]
    spoil(tensors)
    message = refusal(save(tmp_path, tensors))
    assert message.startswith(f"checkpoint {tmp_path}: {said}")
    assert ";" not in message  # it is said once


def test_what_is_wrong_in_every_layer_is_said_once(tmp_path: pathlib.Path) -> None:
    tensors = quantised(tmp_path)
    for layer in range(2):
        del tensors[f"model.layers.{layer}.mlp.up_proj.weight_scale_inv"]
    said = f"model.layers.0-1.mlp.up_proj.weight in {SINGLE} is F8_E4M3, and has no scales"
    assert said in refusal(save(tmp_path, tensors))


def test_scales_in_a_file_that_is_gone_are_not_missed_one_by_one(tmp_path: pathlib.Path) -> None:
    save_sharded(tmp_path, quantised(tmp_path))
    (tmp_path / "part-1.safetensors").unlink()
    message = refusal(tmp_path)
    assert "part-1.safetensors: no such file, though the index names it" in message
    assert "no scales" not in message
    assert "missing" not in message


def test_fp8_without_a_configuration_is_refused(tmp_path: pathlib.Path) -> None:
    """Whether there is a config.json without it, or none."""
    tensors = arrays()
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].astype(_E4M3)
    said = f"{AT} is F8_E4M3, and no quantization_config in config.json says how it is scaled"
    assert refusal(save(tmp_path, tensors)).endswith(said)
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    assert refusal(tmp_path).endswith(said)


def test_a_file_that_changes_before_it_is_read_is_refused(tmp_path: pathlib.Path) -> None:
    tensors = quantised(tmp_path)
    config, mesh = models.read(tmp_path), star_jax.make_mesh()
    found = checkpoint.find(save(tmp_path, tensors), config, mesh=mesh)[f"{Q}.weight"]
    assert isinstance(found, tensor_files.Tensor)
    tensors[f"{Q}.weight"] = np.ones((64, 65), _E4M3)
    save(tmp_path, tensors)
    with pytest.raises(ValueError, match=rf"{re.escape(Q)}.weight: .* no longer what it was"):
        tensor_files.read(found, (), np.dtype(np.float32))
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{re.escape(Q)}.weight: "):
        tensor_files.read(found, (), np.dtype(np.float32))


def test_gguf_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json .*; GGUF files are not read: tak"
    ):
        models.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    config, mesh = models.read(tmp_path), star_jax.make_mesh()
    with pytest.raises(FileNotFoundError, match=r"only safetensors are read; GGUF files are not"):
        checkpoint.load(tmp_path, config, mesh=mesh, dtype="float32")
