"""A converted checkpoint is the checkpoint: the same weights, answers and refusals."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import llamas
import numpy as np
import orbax.checkpoint as ocp  # type: ignore[import-untyped]
import pytest
from further import further
from test_checkpoint import STORED, WRONG, arrays, bits, with_edges
from test_checkpoint import save as save_safetensors
from test_tokenizer import save as save_tokenizer

import star_jax
from star_jax import checkpoint, convert, models
from star_jax.checkpoint import orbax_files
from star_jax.models import Decoder
from star_jax.runs import hashes

# Fewer key/value heads than there may be devices, and a vocabulary that they do not divide.
FIELDS = {
    **llamas.VARIANTS["llama-3"],
    "vocab_size": 273,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "attention_bias": True,
}
MESHES: list[dict[str, Any]] = [
    {},
    {"context": 4},
    {"tensor": 4},
    {"context": 8},
    {"tensor": 8},
    {"data": 2, "context": 2, "tensor": 2},
]
TEXT = "the grass is green. the sky is blue. "


@pytest.fixture(name="pair", scope="module")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A checkpoint in bfloat16, and what it was converted to."""
    folder = tmp_path_factory.mktemp("pair")
    direct, converted = folder / "direct", folder / "converted"
    save_tokenizer(direct, adds="<s> $A")
    model = llamas.build(FIELDS).bfloat16()
    llamas.write(direct, model, FIELDS)
    (direct / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    convert.convert(str(direct), str(converted))
    assert sorted(p.name for p in folder.iterdir()) == ["converted", "direct"]
    return str(direct), str(converted)


def load(directory: str | pathlib.Path, *, dtype: str = "float32", **axes: Any) -> Decoder:
    config = models.read(directory)
    return checkpoint.load(directory, config, mesh=star_jax.make_mesh(**axes), dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", *further("float16", "float32")])
@pytest.mark.parametrize("axes", MESHES)
def test_every_device_gets_the_same_bits(
    axes: dict[str, Any], dtype: str, pair: tuple[str, str]
) -> None:
    direct, converted = (jax.tree.leaves(load(path, dtype=dtype, **axes)) for path in pair)
    assert len(direct) == len(converted)
    for one, other in zip(direct, converted, strict=True):
        assert one.sharding == other.sharding
        assert one.dtype == other.dtype == jnp.dtype(dtype)
        shards = zip(one.addressable_shards, other.addressable_shards, strict=True)
        for a, b in shards:
            assert (a.device, a.index) == (b.device, b.index)
            chex.assert_trees_all_equal(bits(np.asarray(a.data)), bits(np.asarray(b.data)))


@pytest.mark.parametrize("axes", [MESHES[-1], *further({}, {"context": 8})])
def test_the_engine_answers_bit_for_bit_the_same(
    axes: dict[str, Any], pair: tuple[str, str]
) -> None:
    found = []
    for path in pair:
        engine = star_jax.Engine.from_pretrained(
            path, mesh=star_jax.make_mesh(**axes), attention=star_jax.Dense()
        )
        assert engine.eos_token_ids == (1, 2)
        query = engine.tokenizer.encode_query(" is the sky")
        context = engine.prefill(engine.tokenizer.encode_context(TEXT * 3))
        logits = np.asarray(engine.score(context, query))
        answer = None if axes else engine.generate(context, query, max_new_tokens=4)
        found.append((logits, answer))
    (logits, answer), (others, other) = found
    chex.assert_tree_all_finite(logits)
    chex.assert_trees_all_equal(logits, others)
    assert answer == other


def named(directory: str | pathlib.Path) -> dict[str, np.ndarray]:
    """What Orbax alone reads there."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(pathlib.Path(directory) / orbax_files.WEIGHTS)


@pytest.mark.parametrize("stored", [STORED[0], *further(*STORED[1:])])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_orbax_opens_it_and_casts_are_those_of_numpy(
    stored: type, dtype: str | None, tmp_path: pathlib.Path
) -> None:
    tensors = with_edges(stored)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(WRONG_FIELDS))
    save_safetensors(source, tensors)
    convert.convert(str(source), str(tmp_path / "out"), dtype=dtype)
    found = named(tmp_path / "out")
    assert set(found) == set(tensors)
    for name, x in tensors.items():
        with np.errstate(over="ignore", invalid="ignore"):
            expected = x.astype(jnp.dtype(dtype or stored))
        assert found[name].dtype == expected.dtype
        is_nan = np.isnan(expected)  # of which there are many
        assert (np.isnan(found[name].reshape(x.shape)) == is_nan).all()
        a, b = bits(found[name].reshape(x.shape)), bits(expected)
        chex.assert_trees_all_equal(a[~is_nan], b[~is_nan])


WRONG_FIELDS: dict[str, Any] = {
    **llamas.VARIANTS["llama-3"],
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


def save_orbax(
    directory: pathlib.Path, tensors: dict[str, np.ndarray], **fields: Any
) -> pathlib.Path:
    """Any tensors, written by Orbax alone, with heads on an axis of their own."""
    fields = WRONG_FIELDS | fields
    (directory / "config.json").write_text(json.dumps(fields))
    shapes: dict[str, tuple[int, ...]] = {}
    models.build(models.from_dict(fields), lambda name, shape, axes: shapes.update({name: shape}))
    tree = {
        name: x.reshape(shapes[name]) if x.size == np.prod(shapes.get(name, ())) else x
        for name, x in tensors.items()
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / orbax_files.WEIGHTS, tree)
    return directory


def refusal(directory: pathlib.Path, **axes: Any) -> str:
    with pytest.raises(ValueError, match="checkpoint") as error:
        load(directory, **axes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_of_orbax_alone_is_loaded(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    model = load(save_orbax(tmp_path, tensors), tensor=2)
    up = tensors["model.layers.1.mlp.up_proj.weight"]
    chex.assert_trees_all_equal(model.layers[1].mlp.up_weight[...], up)


def test_everything_wrong_with_the_tensors_is_one_error(tmp_path: pathlib.Path) -> None:
    tensors = arrays()
    for spoil, _ in WRONG.values():
        spoil(tensors)
    message = refusal(save_orbax(tmp_path, tensors), tensor=3)
    for kind, (_, said) in WRONG.items():
        assert (said if kind != "dtype" else "model.norm.weight: int8 is not one of") in message
    assert "q_proj.weight: heads=8 cannot be divided over tensor=3" in message
    (tmp_path / "model.safetensors").touch()
    assert "safetensors beside weights: keep one of them" in refusal(tmp_path)


def test_a_tied_head_may_be_stored_but_not_differ(tmp_path: pathlib.Path) -> None:
    for change, name in ((0, "same"), (1, "other")):
        tensors = arrays(tie_word_embeddings=True)
        head = tensors["model.embed_tokens.weight"].copy()
        head[3, 3] += change
        folder = tmp_path / name
        folder.mkdir()
        save_orbax(folder, {**tensors, "lm_head.weight": head}, tie_word_embeddings=True)
    assert load(tmp_path / "same", tensor=2).head is None
    assert "lm_head.weight: differs from model.embed_tokens.weight" in refusal(tmp_path / "other")


def weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in (directory / orbax_files.WEIGHTS).rglob("*") if p.is_file())


def _remove(what: str) -> Callable[[pathlib.Path], None]:
    def spoil(directory: pathlib.Path) -> None:
        found = [p for p in weight_files(directory) if what in str(p)]
        assert found
        for path in found:
            path.unlink()

    return spoil


def _cut(what: str) -> Callable[[pathlib.Path], None]:
    def spoil(directory: pathlib.Path) -> None:
        found = [p for p in weight_files(directory) if what in str(p)]
        assert found
        for path in found:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


TORN = {
    "no metadata": _remove("_METADATA"),
    "half the metadata": _cut("_METADATA"),
    "no manifest": _remove("/manifest.ocdbt"),
    "half a manifest": _cut("weights/manifest.ocdbt"),
    "no index of the data": _remove("weights/d/"),
    "no data": _remove("ocdbt.process_0/d/"),
    "half the data": _cut("ocdbt.process_0/d/"),
    "nothing": _remove(""),
}


@pytest.mark.parametrize("case", TORN)
def test_a_torn_checkpoint_is_one_clear_error(case: str, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(WRONG_FIELDS))
    save_safetensors(source, arrays())
    convert.convert(str(source), str(tmp_path / "out"))
    load(tmp_path / "out")
    TORN[case](tmp_path / "out")
    message = refusal(tmp_path / "out")
    assert f"checkpoint {tmp_path / 'out'}: weights: torn: " in message
    assert "files are cut or not there: weights/" in message
    assert len(message) < 500
    assert "missing" not in message  # what cannot be read is not said to be missing
    (tmp_path / "out" / orbax_files.LIST.format(orbax_files.WEIGHTS)).write_text("{")
    assert "weights_files.json: torn" in refusal(tmp_path / "out")


def test_damage_that_only_orbax_finds_is_one_clear_error(tmp_path: pathlib.Path) -> None:
    """In files of the right sizes, and where there is no list of files."""
    save_orbax(tmp_path, arrays())
    path = tmp_path / orbax_files.WEIGHTS / "_METADATA"
    path.write_bytes(path.read_bytes()[:100])
    assert "weights: torn: " in refusal(tmp_path)
    path.write_text("{}")
    assert "torn: not what Orbax writes ('tree_metadata')" in refusal(tmp_path)
    path.unlink()
    assert "_METADATA) does not exist" in refusal(tmp_path)
    path.symlink_to("/dev/zero")
    assert "_METADATA) does not exist, or is none" in refusal(tmp_path)


@pytest.mark.parametrize("data", [b"", b"none", None])
def test_arrays_that_all_fail_are_one_line(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], data: bytes | None
) -> None:
    """Orbax opens them all at once, and prints a traceback of each that fails after the first."""
    save_orbax(tmp_path, arrays())
    path = tmp_path / orbax_files.WEIGHTS / "manifest.ocdbt"
    path.unlink() if data is None else path.write_bytes(data)
    for _ in range(3):
        assert "weights: torn: " in refusal(tmp_path)
    assert "Traceback" not in capfd.readouterr().err


def test_slices_are_read_in_pieces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any slice, in pieces of any size; they end where chunks do."""
    whole = np.arange(53 * 7 * 5, dtype=np.float32).reshape(53, 7, 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / orbax_files.WEIGHTS, {"a.b": whole})
    (tensor,) = orbax_files.scan(str(tmp_path))[0].values()
    rng = np.random.default_rng(0)
    for piece in (1, 200, 1000, 10**9):
        monkeypatch.setattr(orbax_files, "_PIECE", piece)
        for _ in range(5):
            low, high = np.sort([rng.integers(0, n + 1, 2) for n in whole.shape], axis=1).T
            index = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
            index = index[: rng.integers(0, 4)]
            found = orbax_files.read(tensor, index, np.dtype(np.float32))
            chex.assert_trees_all_equal(found, whole[index])
        ends = [end for _, end in orbax_files._pieces(5, 50, 35 * 4, 10)]
        assert ends[-1] == 50
        assert all(end % 10 == 0 for end in ends)
        assert piece < 10**9 or len(ends) == 1


def test_large_tensors_are_cut_so_that_slices_can_be_read(tmp_path: pathlib.Path) -> None:
    """Heads one by one, all else in pieces of 1 MiB at most."""
    fields = {**WRONG_FIELDS, "hidden_size": 1024, "intermediate_size": 8192, "head_dim": 128}
    fields |= {"num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2}
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(fields))
    save_safetensors(source, arrays(np.float16, **fields))
    convert.convert(str(source), str(tmp_path / "out"))
    tensors, problems, _ = orbax_files.scan(str(tmp_path / "out"))
    assert not problems
    prefix = "model.layers.0"
    assert tensors[f"{prefix}.self_attn.q_proj.weight"].chunk[0] == 1
    assert tensors[f"{prefix}.self_attn.o_proj.weight"].chunk[1] == 1
    for name, tensor in tensors.items():
        assert np.prod(tensor.chunk) * 2 <= 2**20, name
    down = tensors[f"{prefix}.mlp.down_proj.weight"]
    chex.assert_shape(down, (1024, 8192))
    assert down.chunk[1] <= 1024  # a slice for one of eight devices


def test_the_fingerprint_is_of_all_that_was_converted(pair: tuple[str, str]) -> None:
    directory = pathlib.Path(pair[1])
    expected = hashes.of_checkpoint(str(directory))
    assert hashes.of_checkpoint(str(directory)) == expected
    assert expected != hashes.of_checkpoint(pair[0])
    changed = [directory / "config.json", directory / "tokenizer.json", *weight_files(directory)]
    for path in changed:
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]) if kept else b"\0")
        assert hashes.of_checkpoint(str(directory)) != expected, path
        path.unlink()
        assert hashes.of_checkpoint(str(directory)) != expected, path
        path.write_bytes(kept)
    assert hashes.of_checkpoint(str(directory)) == expected


def test_orbax_is_imported_where_it_is_needed_only() -> None:
    """It takes seconds."""
    code = "import star_jax, star_jax.convert, sys; sys.exit('orbax.checkpoint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
