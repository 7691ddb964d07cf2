"""Caches in 8 bits as they compile for GPUs that are not there: spills, bytes read, no copy."""

import pathlib
from typing import Any

import aot
import ptx
import pytest
from further import further
from kernel_programs import Kernels
from programs import Programs, Shapes
from test_aot_triton import KV_HEADS, SHARD, attend, check, on, shapes

from star_jax.attention import Segment, compressed, xla
from star_jax.cache.compressed import KINDS


def compile_decode(
    kind: str,
    head_dim: int,
    small: str,
    *,
    queries: int,
    keys: int = SHARD,
    groups: int = 16,
    **options: Any,
) -> Any:
    """A query over the tokens of a shard of the cache, of so many blocks."""
    mesh = aot.gpu_mesh(kind, context=1)
    q, k, length = shapes(mesh, queries, keys, head_dim, "bfloat16")
    k = aot.abstract(k.shape, compressed.DTYPES[small], mesh)
    of_keys: Any = aot.abstract(k.shape[:3], "bfloat16", mesh)
    feature: Any = aot.abstract((1, groups, KV_HEADS, head_dim), "bfloat16", mesh)

    def f(q: Any, k: Any, v: Any, length: Any, scales: Any) -> Any:
        return attend(q, Segment(k, v, length, scales=scales))

    scales = compressed.Scales(of_keys, of_keys, feature)
    return aot.compile(on(mesh, f), q, k, k, length, scales, **options)


# A decode step, the most rows that are few, and a query; `tests/large` has all of them.
SOME = [("a100", "fp8", 128, 1), ("a100", "int8", 128, 64), ("h200", "int8", 128, 1)]


@pytest.mark.parametrize(("kind", "small", "head_dim", "queries"), SOME)
def test_the_kernel_compiles_without_spills(kind, small, head_dim, queries, tmp_path, capsys):
    check_kernel(kind, small, head_dim, queries, tmp_path, capsys)


def check_kernel(
    kind: str, small: str, head_dim: int, queries: int, folder: pathlib.Path, capsys: Any
) -> None:
    how: Any = {"queries": queries, **ptx.dump_to(folder)}
    compile_decode(kind, head_dim, small, **how)
    few = "few" if queries <= 8 else "many"
    check(folder, "star_decode", kind, f"decode {few} {head_dim} {small}", capsys)


def test_blocks_that_are_no_whole_tiles_spill_nothing(tmp_path, capsys):
    """Each key of a tile has scales of its features to itself."""
    how: Any = {"queries": 1, "keys": 65000, "groups": 65, **ptx.dump_to(tmp_path)}
    compile_decode("a100", 128, "int8", **how)
    check(tmp_path, "star_decode", "a100", "decode few 128 int8, blocks of 1000", capsys)


SHAPES = Shapes(layers=2, waves=4)


def cache_bytes(program: aot.Program) -> int:
    """What the kernels of the context read: arrays with numbers for each key and head."""
    least, found = SHAPES.block * SHAPES.waves * SHAPES.config.num_kv_heads, 0
    for call in program.instructions():
        if call.opcode == "custom-call" and "star_decode" in call.text:
            named = {i.name: i for i in program.instructions(call.computation)}
            for operand in (named[name] for name in call.operands):
                if operand.elements >= least:
                    found += operand.elements * SIZES[operand.type.partition("[")[0]]
    return found


SIZES = {"bf16": 2, "f32": 4, "s32": 4, "s8": 1, "u8": 1, "f8e4m3fn": 1}


@pytest.mark.parametrize(("kind", "small"), [("h200", "int8"), *further(("a100", "fp8"))])
def test_a_decode_step_reads_half_of_the_bytes(kind, small):
    """Llama-3.1-8B's. As with a plain cache, none is copied, nor anything near as large."""
    kernels = Kernels("triton", kind, KINDS[small])
    kernels.check_decode()
    plain = cache_bytes(Kernels("triton", kind).program("decode", SHAPES))
    keys = SHAPES.block * SHAPES.waves * SHAPES.layers
    assert plain == 2 * keys * SHAPES.config.num_kv_heads * SHAPES.config.head_dim * 2
    found = cache_bytes(kernels.program("decode", SHAPES))
    assert 0.5 * plain < found <= 0.53 * plain


@pytest.mark.long
def test_without_a_kernel_a_tile_is_made_whole_at_a_time():
    programs = Programs(SHAPES, "h200", layer_cache=KINDS["int8"])
    written = aot.Program(programs.decode().lower().compile()).writes(1)
    width = SHAPES.config.num_kv_heads * SHAPES.config.head_dim
    assert max(i.elements for i in written) <= xla.READ * width
    assert SHAPES.block / 8 > xla.READ
