"""Times phase 1 of a whole Llama on one GPU, in bfloat16: dense and Star Attention.

The weights are random, made on the device. Each row, a kind of attention with a kernel, runs in a
process of its own, from its shortest context to its longest: the peak of memory that the device
reports is one of the process so far, and grows with the context.
"""

import dataclasses
import gc
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import star_jax
from benchmarks import clock, llama_shapes, machine
from star_jax import Dense, Engine, Star, models
from star_jax.advice import Advice
from star_jax.array_typing import Array
from star_jax.cache.context import Context
from star_jax.models import Decoder, DecoderConfig
from star_jax.runs import timing

DTYPE = "bfloat16"
DENSE_MOST = 131072  # tokens; beyond, dense attention would take minutes
LONG_SECONDS = 10.0  # of all rounds of a length, after which there are no more
# The model that checks has the same width and fewer layers. Two right implementations differ by
# the rounding of bfloat16 in each.
CHECK_LAYERS, CHECK_LENGTH = 4, 4096
WRONG = 3  # how a process exits that has found a wrong result
TOLERANCE = 3e-2  # of |difference| / |expected| in norm, of the last layer's keys and values


class Wrong(ValueError):
    """Keys and values are not those of the reference."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is timed. block: of Star Attention, or None for dense. implementation: None for the
    one that the engine picks."""

    block: int | None
    implementation: str | None = None

    @property
    def attention(self) -> Dense | Star:
        return Dense() if self.block is None else Star(block_size=self.block)

    @property
    def name(self) -> str:
        return "dense" if self.block is None else f"star b={self.block}"

    def takes(self, length: int) -> bool:
        """Star Attention with one block is dense attention."""
        return length <= DENSE_MOST if self.block is None else length > self.block


def run(
    model: str, lengths: Sequence[int], blocks: Sequence[int], *, rounds: int
) -> Iterator[dict[str, Any]]:
    """Checks and times all rows; after each, yields the record of all results so far.

    Raises:
      Wrong: a row is.
      ValueError: none could be timed.
    """
    circumstances: dict[str, Any] = {}
    star = [Row(block) for block in blocks]
    results: list[dict[str, Any]] = []
    for row in (Row(None), *star[:1], Row(None, "cudnn"), *star[1:]):  # what matters most first
        part = _in_a_process(row, model, lengths, rounds)
        results += part["results"]
        circumstances = part["circumstances"] or circumstances
        if not circumstances:  # it failed before it could say on what
            continue
        yield {
            **circumstances,
            "command": " ".join(["python -m benchmarks.prefill", *sys.argv[1:]]),
            "dtype": DTYPE,
            "model": llama_shapes.GPU[model],
            "wall_seconds": clock.elapsed(),
            "results": results,
        }
    if not any("seconds" in result for result in results):
        raise ValueError(f"nothing could be timed: {[r['reason'] for r in results][:3]}")


def _in_a_process(row: Row, model: str, lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    """Its results; where the process has failed, those that it left, and for the others a reason.

    Raises:
      Wrong: the row is.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "part.json"
        asked = {"row": dataclasses.asdict(row), "model": model, "rounds": rounds, "out": str(out)}
        mine = sorted(length for length in lengths if row.takes(length))
        command = [sys.executable, "-m", "benchmarks.prefill_gpu"]
        command.append(json.dumps(asked | {"lengths": mine}))
        code = subprocess.run(command).returncode
        if code == WRONG:
            raise Wrong(f"{row} is wrong: see above")
        part: dict[str, Any] = {"circumstances": {}, "results": []}
        if out.exists():
            part = json.loads(out.read_text())
    if code:  # killed, say: of memory that it took, or with the device
        done = {result["length"] for result in part["results"]}
        why = f"its process failed ({code=})"
        part["results"] += [_result(row, n, reason=why) for n in mine if n not in done]
        clock.say(f"{row.name}: {why}")
    return part


def _part(asked: dict[str, Any]) -> None:
    """One row, in this process."""
    machine.take_memory()
    # That exact attention would be as fast is for the results to say.
    warnings.simplefilter("ignore", Advice)
    row, mesh = Row(**asked["row"]), star_jax.make_mesh()
    circumstances = machine.circumstances(mesh.devices.flat[0], "benchmarks.prefill")
    out = pathlib.Path(asked["out"])
    results: list[dict[str, Any]] = []

    def write() -> None:
        """As a whole or not at all: what ends the process may do so at any time."""
        new = out.with_suffix(".new")
        new.write_text(json.dumps({"circumstances": circumstances, "results": results}))
        new.replace(out)

    write()
    fields = llama_shapes.GPU[asked["model"]]
    try:
        for result in measure(row, fields, asked["lengths"], mesh, rounds=asked["rounds"]):
            results.append(result)
            write()
    except Wrong as e:
        clock.say(str(e))
        sys.exit(WRONG)


def measure(
    row: Row, fields: dict[str, Any], lengths: Sequence[int], mesh: Mesh, *, rounds: int
) -> Iterator[dict[str, Any]]:
    """What was measured at each length, or why nothing was.

    Raises:
      Wrong: keys and values are not those that the float32 reference of attention gives.
    """
    config = models.from_dict(fields)
    shallow = dataclasses.replace(config, num_layers=min(CHECK_LAYERS, config.num_layers))
    try:
        difference = check(row, shallow, min(CHECK_LENGTH, config.max_position_embeddings), mesh)
        engine = _engine(row, random_model(config), mesh)
    except Wrong:
        raise
    except Exception as e:  # no such kernel for this device, or too little memory
        why = clock.reason(e)
        clock.say(f"{row.name}: {why}")
        yield from (_result(row, length, reason=why) for length in lengths)
        return
    clock.say(f"{row.name}: {engine.implementation}, {difference=:.2g}")
    failed: int | None = None
    for length in lengths:
        if failed is not None:
            yield _result(row, length, reason=f"not tried: {failed} tokens were too many")
            continue
        try:
            found = _times(engine, length, rounds)
        except Exception as e:  # out of memory, above all
            found, failed = {"reason": clock.reason(e)}, length
        gc.collect()  # what an exception held
        found |= {"implementation": engine.implementation, "difference": difference}
        clock.say(f"{row.name}, {length} tokens: {_said(found)}")
        yield _result(row, length, **found)


def _times(engine: Engine, length: int, rounds: int) -> dict[str, Any]:
    """Seconds of prefill, from token ids on the host to keys and values on the device."""
    ids = np.random.default_rng(length).integers(3, engine.config.vocab_size, length)
    with timing.Stopwatch() as watch:
        context = engine.prefill(ids).block_until_ready()
    if not _finite(context):
        raise ValueError("keys or values are not finite")
    del context  # before the next one is made
    seconds: list[float] = []
    while len(seconds) < rounds and math.fsum(seconds) < LONG_SECONDS:
        start = time.perf_counter()
        context = engine.prefill(ids).block_until_ready()
        seconds.append(time.perf_counter() - start)
        del context
    return {
        "compile_seconds": watch.compile_seconds,
        "seconds": clock.spread(seconds),
        "rounds": seconds,
        "peak_bytes": timing.peak_memory(engine.mesh.devices.flat),
    }


def _result(row: Row, length: int, **found: Any) -> dict[str, Any]:
    return {
        "row": row.name,
        "block": row.block,
        "implementation": row.implementation,
        "length": length,
    } | found


def check(row: Row, config: DecoderConfig, length: int, mesh: Mesh) -> float:
    """How far the last layer's keys and values are from those with the reference of attention.

    Of a context of four blocks; and of one of a single block, which must be as dense.

    Raises:
      Wrong: too far.
      NotImplementedError: this kernel cannot run here.
    """
    model = random_model(config)
    ids = np.random.default_rng(length).integers(3, config.vocab_size, length)
    quarter = dataclasses.replace(row, block=None if row.block is None else length // 4)
    pairs = [(quarter, dataclasses.replace(quarter, implementation="reference"))]
    if row.block is not None:
        whole = dataclasses.replace(row, block=length)
        pairs.append((whole, dataclasses.replace(whole, block=None)))
    worst = 0.0
    for mine, right in pairs:
        found, expected = (_last_layer(_engine(r, model, mesh), ids) for r in (mine, right))
        difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        if not difference <= TOLERANCE:
            raise Wrong(
                f"{mine}: keys and values differ from those of {right} by {difference:.2g}, "
                f"more than {TOLERANCE}"
            )
        worst = max(worst, difference)
    return worst


def _engine(row: Row, model: Decoder, mesh: Mesh) -> Engine:
    return Engine(model, mesh=mesh, attention=row.attention, implementation=row.implementation)


def _last_layer(engine: Engine, ids: np.ndarray) -> np.ndarray:
    last: Any = engine.prefill(ids).groups[0].cache.layers[-1]
    return np.stack([np.asarray(x[:, : len(ids)], np.float32) for x in last])


def _finite(context: Context) -> bool:
    last = context.groups[0].cache.layers[-1]
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(last))


def random_model(config: DecoderConfig) -> Decoder:
    """Weights that keep activations as large as they are in a trained model: about 1."""
    key = jax.random.key(0)

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array:
        nonlocal key
        if "norm" in name:
            return jnp.ones(shape, DTYPE)
        key, mine = jax.random.split(key)
        if axes[0] == "vocab":
            return _normal(mine, shape, 1.0)
        # Weights are [out, in], either of which may be two axes.
        inputs = math.prod(shape[1:]) if axes[0] == "embed" else shape[-1]
        return _normal(mine, shape, inputs**-0.5)

    return models.build(config, make)


def _normal(key: Array, shape: tuple[int, ...], scale: float) -> Array:
    return _draw(key, shape) * jnp.asarray(scale, DTYPE)


_draw = jax.jit(lambda key, shape: jax.random.normal(key, shape, DTYPE), static_argnums=1)


def _said(result: dict[str, Any]) -> str:
    if "seconds" not in result:
        return result["reason"]
    return f"{result['seconds']['median']:.3g} s, {result['peak_bytes'] or 0:.3g} bytes"


if __name__ == "__main__":
    _part(json.loads(sys.argv[1]))
