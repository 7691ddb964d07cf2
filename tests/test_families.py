"""Families of checkpoints: which there are, who may name them, and how their tensors map."""

import ast
import dataclasses
import json
import pathlib
import re
from typing import Any

import chex
import jax
import llamas
import numpy as np
import pytest
from safetensors.numpy import save_file

import star_jax
from star_jax import checkpoint, convert, models
from star_jax.checkpoint import fingerprint, tensor_files
from star_jax.models import DecoderConfig, Part
from tools import structure

ROOT = pathlib.Path(__file__).parents[1]
FIELDS = {**llamas.VARIANTS["attention-bias"], "model_type": "made-up"}
CONFIG = models.from_dict({**FIELDS, "model_type": "llama"})


def test_nothing_outside_models_names_a_family() -> None:
    own = set(structure.families(structure.read()))
    assert {"star_jax.models.llama", "star_jax.models.qwen"} <= own
    for folder in ("star_jax", "eval", "benchmarks", "tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "star_jax" / "models"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    module = node.module or ""
                    names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
                else:
                    continue
                assert own.isdisjoint(names), f"{path}:{node.lineno}"


def test_the_mesh_knows_no_model() -> None:
    assert "models" not in (ROOT / "star_jax" / "runtime" / "mesh.py").read_text()


@pytest.mark.parametrize("model_type", ["gpt2", "", None, 1, ["llama"], {}])
def test_an_unknown_family_is_refused_and_the_known_ones_are_listed(model_type: Any) -> None:
    known = " or ".join(map(repr, models.families()))
    said = f"config.json: model_type={model_type!r} is not supported, only {known}"
    with pytest.raises(NotImplementedError, match=f"^{re.escape(said)}$"):
        models.from_dict({**FIELDS, "model_type": model_type})


def test_a_family_is_part_of_what_a_context_was_made_with() -> None:
    other = dataclasses.replace(CONFIG, family="mistral")
    one, two = (
        fingerprint.Fingerprint("0", config, "float32", None, "dense") for config in (CONFIG, other)
    )
    assert one.differences(two) == ["config.family 'llama' there, 'mistral' here"]


# Where a weight is in the tensors of a made-up family: queries, keys and values are rows of one
# tensor, and so are gates and ups; downs are cut in two.
def parts(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    head_dim = config.head_dim
    queries, keys, units = config.num_heads, config.num_kv_heads, config.intermediate_size
    fused = {
        "qkv_proj": {
            "q_proj": queries * head_dim,
            "k_proj": keys * head_dim,
            "v_proj": keys * head_dim,
        },
        "gate_up_proj": {"gate_proj": units, "up_proj": units},
    }
    for tensor, sizes in fused.items():
        start = 0
        for weight, size in sizes.items():
            if f".{weight}." in name:
                assert size == rows
                return (
                    Part(name.replace(weight, tensor), start, start + size, sum(sizes.values())),
                )
            start += size
    if ".down_proj." in name:
        first = rows // 3
        return (
            Part(f"{name}.0", 0, first, first),
            Part(f"{name}.1", 0, rows - first, rows - first),
        )
    return (Part(name, 0, rows, rows),)


MADE_UP = dataclasses.replace(models.families()["llama"], name="made-up", parts=parts)


def fuse(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a Llama as those of the made-up family."""
    found: dict[str, np.ndarray] = {}
    for name, x in tensors.items():
        for part, y in zip(places := parts(CONFIG, name, len(x)), _cut(x, places), strict=True):
            tensor = found.setdefault(part.tensor, np.zeros((part.rows, *x.shape[1:]), x.dtype))
            tensor[part.start : part.stop] = y
    return found


def _cut(x: np.ndarray, places: tuple[Part, ...]) -> list[np.ndarray]:
    ends = np.cumsum([part.stop - part.start for part in places])
    return np.split(x, ends[:-1])


@pytest.fixture
def fused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Tensors of the made-up family, saved beside a Llama with the same weights."""
    monkeypatch.setitem(models.families(), MADE_UP.name, MADE_UP)
    llama = llamas.build(llamas.VARIANTS["attention-bias"])
    llamas.write(tmp_path / "llama", llama, llamas.VARIANTS["attention-bias"])
    tensors = fuse({name: x.numpy() for name, x in llama.state_dict().items()})
    save(tmp_path / "fused", tensors)
    return tensors


def save(directory: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(FIELDS))
    save_file(tensors, directory / tensor_files.SINGLE)


def load(directory: pathlib.Path, **axes: Any) -> models.Decoder:
    mesh = star_jax.make_mesh(**axes)
    return checkpoint.load(directory, models.read(directory), mesh=mesh, dtype="float32")


@pytest.mark.parametrize("axes", [{}, {"context": 4, "tensor": 2}, {"tensor": 4}])
def test_weights_are_parts_of_tensors_and_tensors_parts_of_weights(
    axes: dict[str, int], fused: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    assert sum("qkv_proj" in name for name in fused) == 4
    expected, found = load(tmp_path / "llama", **axes), load(tmp_path / "fused", **axes)
    assert found.config.family == MADE_UP.name
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.sharding == b.sharding
        chex.assert_trees_all_equal(a, b)


def test_no_more_of_a_tensor_is_read_than_its_part(
    fused: dict[str, np.ndarray], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read = tensor_files.read

    def count(*args: Any, **kwargs: Any) -> np.ndarray:
        found = read(*args, **kwargs)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(tensor_files, "read", count)
    load(tmp_path / "fused", context=2, tensor=4)
    # Two key heads on four devices: each of them is read once.
    assert sum(sizes) == sum(x.nbytes for x in fused.values())


def test_a_converted_checkpoint_has_weights_and_no_parts(
    fused: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    convert.convert(str(tmp_path / "fused"), str(tmp_path / "converted"))
    expected, found = load(tmp_path / "llama"), load(tmp_path / "converted")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        chex.assert_trees_all_equal(a, b)


def test_what_is_wrong_with_a_part_is_said_once(
    fused: dict[str, np.ndarray], tmp_path: pathlib.Path
) -> None:
    del fused["model.layers.0.mlp.gate_up_proj.weight"]
    fused["model.layers.1.self_attn.qkv_proj.weight"] = np.zeros((3, 64), np.float32)
    second = "model.layers.1.mlp.down_proj.weight.1"
    fused[second] = fused[second].astype(np.float16)
    fused["model.layers.0.self_attn.q_proj.weight"] = np.zeros((64, 64), np.float32)
    save(tmp_path / "fused", fused)
    with pytest.raises(ValueError, match="checkpoint") as error:
        load(tmp_path / "fused")
    assert str(error.value).removeprefix(f"checkpoint {tmp_path / 'fused'}: ").split("; ") == [
        "model.layers.0.mlp.gate_up_proj.weight: missing",
        "model.layers.1.self_attn.qkv_proj.weight: shape (3, 64), not (128, 64)",
        "model.layers.1.mlp.down_proj.weight: parts of F16 and F32",
        "model.layers.0.self_attn.q_proj.weight: unknown",
    ]
