"""Converting and loading 2 GB of weights needs memory for one tensor beside the devices' share.

Each step runs in a process of its own, which first does the same with a tiny checkpoint: what
Orbax and its thread pools take for themselves is in the baseline. Two figures: anonymous
memory, which the kernel cannot drop, and the whole resident set, with pages of mapped files.

Measured on two cores with `pytest -s tests/large/test_convert_memory.py` (peaks above the
baseline in MiB; the largest tensor has 256, and `devices` is what they hold in the end):

    step           mesh                   devices   anonymous   resident
    convert                                             305        343
    safetensors    1                         1904      2190       2254
    converted      1                         1904      2258       2257
    safetensors    tensor=4                  1904      2234       2235
    converted      tensor=4                  1904      2408       2408
    safetensors    tensor=8                  1953      2302       2304
    converted      tensor=8                  1953      2437       2439
    safetensors    context=2, tensor=4       3809      3869       3869
    converted      context=2, tensor=4       3809      3984       3984

It took 3.8 minutes on an idle machine; these were measured on a busy one.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import chex
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
BIG = {
    "model_type": "llama",
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}
TINY = {**BIG, "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512}
TINY["num_hidden_layers"] = 1
LARGEST = 65536 * 2048 * 2  # bytes: the embedding
MESHES: dict[str, dict[str, Any]] = {
    "1": {},
    "4": {"tensor": 4},
    "8": {"tensor": 8},
    "2x4": {"context": 2, "tensor": 4},
}
# Pieces of 64 MiB on their way from or to the files, and what the C library keeps of what is
# freed; 229 MiB were measured at most.
SLACK = 256 * 2**20


def write(directory: pathlib.Path, fields: dict[str, Any], *, files: int) -> None:
    """Random weights in bfloat16, in several files, a slice at a time."""
    from star_jax import models

    shapes: dict[str, tuple[int, ...]] = {}

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
        if "head" in axes:
            at = axes.index("head")
            shape = (*shape[: at - 1], shape[at - 1] * shape[at], *shape[at + 1 :])
        shapes[name] = shape

    models.build(models.from_dict(fields), make)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(fields))
    weight_map = {n: f"part-{i * files // len(shapes)}.safetensors" for i, n in enumerate(shapes)}
    rng = np.random.default_rng(0)
    for file in sorted(set(weight_map.values())):
        header: dict[str, Any] = {}
        end = 0
        for name in (n for n in shapes if weight_map[n] == file):
            begin, end = end, end + 2 * math.prod(shapes[name])
            offsets = [begin, end]
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": offsets}
        text = json.dumps(header).encode()
        with open(directory / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name, field in header.items():
                # Any sign, from 2^-9 to 2^-7; of norms, from 1 to 2.
                kept, fixed = (0x007F, 0x3F80) if "norm" in name else (0x80FF, 0x3B00)
                for left in range(math.prod(field["shape"]), 0, -(2**22)):
                    random = rng.integers(0, 2**16, min(left, 2**22), np.uint16)
                    out.write((random & kept | fixed).astype("<u2").tobytes())
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


class Peak:
    """The most memory that this process holds while it is entered, in bytes."""

    def __enter__(self) -> "Peak":
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self.base = _memory()
        self.anonymous = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.anonymous = max(self.anonymous, _memory()["RssAnon"])

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.above = {
            "anonymous": self.anonymous - self.base["RssAnon"],
            "resident": _memory()["VmHWM"] - self.base["VmRSS"],
        }


def _memory() -> dict[str, int]:
    text = pathlib.Path("/proc/self/status").read_text()
    lines = [line.split() for line in text.splitlines() if line.endswith(" kB")]
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in lines}


def step(kind: str, folder: pathlib.Path, axes: dict[str, Any], source: str) -> dict[str, Any]:
    """What the process does: `write`, `convert`, or `load` and ask."""
    if kind == "write":
        write(folder / "direct", BIG, files=5)
        write(folder / "tiny", TINY, files=2)
        return {}
    from star_jax import convert

    if kind == "convert":
        convert.convert(str(folder / "tiny"), str(folder / "tiny_converted"))
        with Peak() as peak:
            convert.convert(str(folder / "direct"), str(folder / "converted"))
        return peak.above
    import jax

    import star_jax

    mesh = star_jax.make_mesh(**axes)

    def load(name: str) -> star_jax.Engine:
        return star_jax.Engine.from_pretrained(
            folder / name, mesh=mesh, attention=star_jax.Dense(), dtype="bfloat16"
        )

    load("tiny_converted" if source == "converted" else "tiny")
    with Peak() as peak:
        engine = load(source)
    shards = [s for x in jax.tree.leaves(engine.model) for s in x.addressable_shards]
    context = engine.prefill(list(range(2, 18)))
    logits = np.asarray(engine.score(context, [5, 6, 7]))
    np.save(folder / f"{source}-{len(mesh.devices.flat)}-{axes}.npy", logits)
    return {**peak.above, "devices": sum(s.data.nbytes for s in shards)}


def run(kind: str, folder: pathlib.Path, axes: dict[str, Any], source: str) -> dict[str, Any]:
    """`step`, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, kind, str(folder), json.dumps(axes), source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    run("write", folder, {}, "")
    peak = run("convert", folder, {}, "")
    _show("convert", peak)
    assert peak["anonymous"] <= LARGEST + SLACK
    assert peak["resident"] <= 2 * LARGEST + SLACK  # with its pages in the mapping of the input
    return folder


@pytest.mark.parametrize("name", MESHES)
def test_loading_needs_the_devices_share_and_a_tensor(
    name: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = MESHES[name]
    logits = []
    for source in ("direct", "converted"):
        peak = run("load", folder, axes, source)
        with capsys.disabled():
            _show(f"{source} on {name}", peak)
        assert peak["anonymous"] <= peak["devices"] + LARGEST + SLACK
        # What the host needs beside the devices: less than a tensor and one device's share.
        share = peak["devices"] / math.prod(axes.values())
        assert peak["anonymous"] - peak["devices"] <= LARGEST + share
        if source == "converted":  # nothing is mapped
            assert peak["resident"] <= peak["devices"] + LARGEST + SLACK
        (path,) = folder.glob(f"{source}-*-{axes}.npy")
        logits.append(np.load(path))
    chex.assert_tree_all_finite(logits[0])
    assert logits[0].std() > 0.01
    chex.assert_trees_all_equal(*logits)


def _show(what: str, peak: dict[str, int]) -> None:
    print(f"\n{what}: " + ", ".join(f"{k} {v / 2**20:.0f} MiB" for k, v in peak.items()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from star_jax.runtime import mesh as mesh_lib

    given_axes = json.loads(sys.argv[3])
    mesh_lib.simulate_cpu_devices(max(1, math.prod(given_axes.values())))
    print(json.dumps(step(sys.argv[1], pathlib.Path(sys.argv[2]), given_axes, sys.argv[4])))
