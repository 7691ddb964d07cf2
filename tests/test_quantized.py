"""Weights in 8 bits: each is its value times the scale of its block, wherever it goes."""

import json
import pathlib
from typing import Any

import chex
import eight_bits
import llamas
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from eight_bits import KINDS, Kind, Tensors
from safetensors.numpy import save_file
from test_checkpoint import CONFIG, FIELDS, arrays, bits, load, named, save, save_sharded

import star_jax
from star_jax import checkpoint, convert, models
from star_jax.checkpoint import fingerprint, tensor_files


def save_quantised(
    directory: pathlib.Path, kind: Kind, *, dtype: Any = np.float32, sharded: bool = False
) -> Tensors:
    """A checkpoint in 8 bits; returns what its weights stand for."""
    stored, meant = eight_bits.quantised(kind, arrays(dtype))
    (save_sharded if sharded else save)(directory, stored)
    fields = FIELDS | {"quantization_config": kind.config}
    (directory / "config.json").write_text(json.dumps(fields))
    return meant


@pytest.mark.parametrize("axes", [{}, {"context": 4, "tensor": 2}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_its_value_times_its_scale(
    kind: str, axes: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """Matrix and scales may be in different files."""
    meant = save_quantised(tmp_path, KINDS[kind], sharded=bool(axes))
    assert models.read(tmp_path) == CONFIG  # how it is stored does not change the model
    found = named(load(tmp_path, **axes))
    assert set(found) == set(meant)
    for name, x in meant.items():
        chex.assert_trees_all_equal(bits(found[name].reshape(x.shape)), bits(x))


def test_it_is_multiplied_in_float32_and_then_cast(tmp_path: pathlib.Path) -> None:
    meant = save_quantised(tmp_path, KINDS["fp8, blocks"], dtype=ml_dtypes.bfloat16)
    found = named(load(tmp_path, dtype="bfloat16", tensor=8))
    for name, x in meant.items():
        expected: np.ndarray = x.astype(ml_dtypes.bfloat16)
        chex.assert_trees_all_equal(bits(found[name].reshape(x.shape)), bits(expected))


@pytest.mark.parametrize("stored", [ml_dtypes.float8_e4m3fn, np.int8])
def test_any_slice_is_read_in_pieces_of_any_size(
    stored: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that 8 bits can be, NaN too."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(53 * 77) % 256).astype(np.uint8).reshape(53, 77)
    scales = rng.uniform(0.5, 2, size=(5, 6)).astype(np.float32)
    save_file({"a": codes.view(stored), "b": scales}, tmp_path / tensor_files.SINGLE)
    spread = np.repeat(np.repeat(scales, 11, 0), 13, 1)[:53, :77]
    whole = codes.view(stored).astype(np.float32) * spread
    found = tensor_files.scan(str(tmp_path)).tensors
    word = found["a"].dtype
    scale = tensor_files.Scale(found["b"], word, (11, 13))
    tensor = tensor_files.Tensor(found["a"].path, "a", "F32", (53, 77), scale)
    for piece in (1, 1000, 10**9):
        monkeypatch.setattr(tensor_files, "_PIECE", piece)
        for _ in range(5):
            low, high = np.sort([rng.integers(0, n + 1, 2) for n in whole.shape], axis=1).T
            index = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            part = tensor_files.read(tensor, index, np.dtype(np.float32))
            np.testing.assert_array_equal(part, whole[index])


def test_each_value_is_read_once_for_all_devices(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    scaled = tensor_files._scaled

    def count(codes: np.ndarray, *args: Any) -> np.ndarray:
        sizes.append(codes.size)
        return scaled(codes, *args)

    meant = save_quantised(tmp_path, KINDS["fp8, blocks"])
    monkeypatch.setattr(tensor_files, "_scaled", count)
    load(tmp_path, tensor=2, context=4)
    matrices = [x.size for name, x in meant.items() if name.endswith("_proj.weight")]
    assert sorted(sizes) == sorted(size // 2 for size in matrices for _ in range(2))


def save_model(
    directory: pathlib.Path, fields: dict[str, Any], kind: Kind
) -> transformers.PreTrainedModel:
    """Writes a random model in 8 bits; returns it with the weights that these stand for."""
    model = llamas.build(fields)
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    stored, meant = eight_bits.quantised(kind, state)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in meant.items()}, strict=False)
    save_file(stored, directory / tensor_files.SINGLE)
    fields = fields | {"quantization_config": kind.config}
    (directory / "config.json").write_text(json.dumps(fields))
    return model


@pytest.mark.parametrize("kind", ["fp8, blocks", "compressed, rows"])
@pytest.mark.parametrize("variant", ["llama-3.1", "qwen2.5", "qwen3", "phi3", "granite"])
def test_logits_are_those_of_the_dequantised_model(
    variant: str, kind: str, tmp_path: pathlib.Path
) -> None:
    """Of Phi, weights are rows of a fused matrix, whose blocks do not end where they do."""
    fields = llamas.VARIANTS[variant]
    theirs = save_model(tmp_path, fields, KINDS[kind])
    ours = checkpoint.load(
        tmp_path, models.read(tmp_path), mesh=star_jax.make_mesh(), dtype="float32"
    )
    tokens = np.random.default_rng(0).integers(0, fields["vocab_size"], (1, 40))
    expected = llamas.their_logits(theirs, tokens)
    found = llamas.our_logits(ours, tokens)
    assert np.abs(found - expected).max() / max(1, np.abs(expected).max()) < 1e-5


def test_converted_it_is_the_same_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "direct").mkdir()
    source, output = str(tmp_path / "direct"), str(tmp_path / "out")
    save_quantised(tmp_path / "direct", KINDS["compressed, blocks"], dtype=ml_dtypes.bfloat16)
    with pytest.raises(ValueError, match=r"source=.* weights in FP8, .* dequantised: name a dtype"):
        convert.convert(source, output)
    convert.convert(source, output, dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == FIELDS
    assert models.read_quantization(output) is None
    mesh, digests = star_jax.make_mesh(tensor=2), []
    for path in (source, output):
        model = checkpoint.load(path, models.read(path), mesh=mesh, dtype="bfloat16")
        digests.append(fingerprint.Weights().digest(model, mesh))
    assert digests[0] == digests[1]


def test_a_tied_head_may_be_stored_in_8_bits_too(tmp_path: pathlib.Path) -> None:
    """Both are then what they stand for."""
    config = models.from_dict({**FIELDS, "tie_word_embeddings": True})
    kind = KINDS["compressed, whole"]
    tensors = arrays(tie_word_embeddings=True)
    one = {"x_proj.weight": tensors["model.embed_tokens.weight"]}
    stored, meant = eight_bits.quantised(kind, one)
    for name in ("model.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = stored["x_proj.weight"]
        tensors[f"{name}.weight_scale"] = stored["x_proj.weight_scale"]
    save(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": kind.config}))
    model = checkpoint.load(tmp_path, config, mesh=star_jax.make_mesh(), dtype="float32")
    assert model.head is None
    chex.assert_trees_all_equal(np.asarray(model.embedding[...]), meant["x_proj.weight"])
