"""The Hopper kernels, compiled for H200s that are not there: what the assembler makes of them.

Each head dim, and what takes most registers; `tests/large` compiles all combinations.
"""

import re

import aot
import jax
import jax.numpy as jnp
import pytest

from star_jax import attention
from star_jax.attention import Segment, mosaic
from star_jax.attention.mosaic import decode

B, N, K = 1, 32, 8  # Llama-3.1-8B's heads
# Registers do not depend on which of the two types of 16 bits it is.
# What is usual, and the widest; `tests/large` has all.
USUAL, WIDEST = (128, "bfloat16"), (max(mosaic.HEAD_DIMS), "bfloat16")
MODELS = {  # heads, key heads, head dim, window, soft cap
    "Gemma 2 9B": (16, 8, 256, 4096, 50.0),
    "Gemma 3 27B": (32, 16, 128, 1024, None),
}


def assemble(dump, monkeypatch, q, segments, soft_cap=None):
    """Compiles attention; returns its PTX, the assembler's report, and the program."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(dump))
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTX", "1")
    mesh = aot.gpu_mesh("h200", context=1)

    leaves, tree = jax.tree.flatten(segments)  # a segment holds arrays alone, not their shapes

    def run(q, *leaves):
        segments = jax.tree.unflatten(tree, leaves)
        options = {"scale": 0.1, "soft_cap": soft_cap, "implementation": "mosaic"}
        return attention.partial_attention(q, segments, **options)

    arguments = [aot.abstract(x.shape, x.dtype, mesh) for x in (q, *leaves)]
    compiled = aot.compile(run, *arguments)
    (ptx,) = dump.glob("*.ptx")
    (report,) = dump.glob("*.ptxas")
    return ptx.read_text(), report.read_text(errors="replace"), aot.Program(compiled)


def check_assembly(ptx, report):
    """Hopper's matmuls and copies; no register in memory, no matmul that waits for the next."""
    assert "wgmma.mma_async" in ptx and "cp.async.bulk.tensor" in ptx
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", report)
    assert spills == [("0", "0", "0")], report
    assert "serialized" not in report, report


def empty(*shape, dtype="bfloat16"):
    return jnp.broadcast_to(jnp.zeros((), dtype), shape)


@pytest.mark.parametrize(("head_dim", "dtype", "causal"), [(*USUAL, True), (*WIDEST, True)])
def test_prefill_spills_nothing(head_dim, dtype, causal, tmp_path, monkeypatch):
    T = 4096
    q, k = empty(B, T, N, head_dim, dtype=dtype), empty(B, T, K, head_dim, dtype=dtype)
    row = empty(B, dtype="int32")
    segments = [Segment(k, k, row, causal)]
    if causal:
        segments.insert(0, Segment(k, k, row))
    ptx, report, program = assemble(tmp_path, monkeypatch, q, segments)
    check_assembly(ptx, report)
    assert not program.moves(B * T * K * head_dim)  # keys and values are read where they lie


@pytest.mark.parametrize(("head_dim", "dtype", "queries"), [(*USUAL, 1), (*WIDEST, 64)])
def test_decode_spills_nothing(head_dim, dtype, queries, tmp_path, monkeypatch):
    S = 65536
    q, k = empty(B, queries, N, head_dim, dtype=dtype), empty(B, S, K, head_dim, dtype=dtype)
    segments = [Segment(k, k, empty(B, dtype="int32"))]
    ptx, report, program = assemble(tmp_path, monkeypatch, q, segments)
    check_assembly(ptx, report)
    assert not program.moves(B * S * K * head_dim)
    if queries == 1 and head_dim < 256:
        # Two blocks on a multiprocessor: of its 228 KB of shared memory, each takes 1 KB more.
        needed = decode.DEFAULTS[head_dim].shared_memory(head_dim, 1) + 1024
        registers = max(map(int, re.findall(r"[Uu]sed (\d+) registers", report)))
        assert 2 * needed <= 228 * 1024 and 2 * 256 * registers <= 65536


@pytest.mark.parametrize("model", ["Gemma 2 9B"])
def test_windows_spill_nothing(model, tmp_path, monkeypatch):
    """A block behind the keys before it that its first query sees, padded to a multiple of 8."""
    heads, kv_heads, head_dim, window, soft_cap = MODELS[model]
    T, S = 4096, 4096 + window
    q, k = empty(B, T, heads, head_dim), empty(B, S, kv_heads, head_dim)
    row = empty(B, dtype="int32")
    own = Segment(k, k, row, True, row, window=window, begin=row)
    ptx, report, program = assemble(tmp_path, monkeypatch, q, [own], soft_cap)
    check_assembly(ptx, report)
    assert not program.moves(B * T * kv_heads * head_dim)


def test_soft_caps_spill_nothing(tmp_path, monkeypatch):
    """Of a layer that sees everything; not by the instruction for tanh, which is too coarse."""
    q, k = empty(B, 4096, N, 128), empty(B, 4096, K, 128)
    row = empty(B, dtype="int32")
    segments = [Segment(k, k, row), Segment(k, k, row, True)]
    ptx, report, _ = assemble(tmp_path, monkeypatch, q, segments, soft_cap=50.0)
    check_assembly(ptx, report)
    assert "rsqrt.approx" in ptx and "tanh" not in ptx


def test_lengths_that_divide_nothing_compile(tmp_path, monkeypatch):
    q, k = empty(2, 777, N, 128), empty(2, 1001, K, 128)
    prefix = empty(2, 13, K, 128)
    segments = [Segment(prefix, prefix), Segment(k, k, causal=True)]
    ptx, report, _ = assemble(tmp_path, monkeypatch, q, segments)
    check_assembly(ptx, report)


@pytest.mark.parametrize(("head_dim", "queries"), [(128, 16)])
def test_strided_rows_over_far_keys_spill_nothing(head_dim, queries, tmp_path, monkeypatch):
    """What a correction asks: the rows of eight devices over a shard, from a later key on."""
    S = 65536
    q, k = empty(B, queries, N, head_dim), empty(B, S, K, head_dim)
    row = empty(B, dtype="int32")
    ptx, report, program = assemble(tmp_path, monkeypatch, q, [Segment(k, k, row, begin=row)])
    check_assembly(ptx, report)
    assert not program.moves(S * K * head_dim)
