"""The Triton kernels as they compile for GPUs that are not there: instructions, spills, copies.

Each default configuration, at the sizes of real models, for each architecture that the kernels
are for: Ampere, Ada, consumer Blackwell, Hopper.
"""

import pathlib
import re

import aot
import jax
import ptx
import pytest
from further import further
from jax.sharding import PartitionSpec as P

from star_jax.attention import Segment, kernels, triton
from star_jax.attention.triton import decode, prefill

KINDS = ("a100", "l40s", "rtxpro6000", "h200")
HEAD_DIMS = tuple(prefill.DEFAULTS)
HEADS, KV_HEADS, BLOCK, SHARD = 32, 8, 4096, 65536

# The other dtype is as wide, and takes as many registers: the widest head speaks for it.
ALL = [(k, h, "bfloat16") for k in KINDS for h in HEAD_DIMS]
ALL += [(k, max(HEAD_DIMS), d) for k in KINDS for d in kernels.DTYPES if d != "bfloat16"]
USUAL, WIDEST = 128, max(HEAD_DIMS)


def is_usual(kind, head_dim, dtype):
    """The usual head dim everywhere; where models are served, also the widest."""
    return head_dim == USUAL or (
        kind in ("a100", "h200") and (head_dim, dtype) == (WIDEST, "bfloat16")
    )


RUNS = [run for run in ALL if is_usual(*run)] + further(*(run for run in ALL if not is_usual(*run)))
FEW = [USUAL, *further(*(h for h in HEAD_DIMS if h != USUAL))]


def compile_prefill(kind, head_dim, dtype="bfloat16", **options):
    """A block of 4096 tokens after an anchor of the same size."""
    mesh = aot.gpu_mesh(kind, context=1)

    def f(q, k, v, prefix_k, prefix_v, length):
        prefix = Segment(prefix_k, prefix_v, length)
        return attend(q, prefix, Segment(k, v, causal=True))

    q, k, length = shapes(mesh, BLOCK, BLOCK, head_dim, dtype)
    return aot.compile(on(mesh, f), q, k, k, k, k, length, **options)


def compile_decode(kind, head_dim, dtype="bfloat16", *, queries, **options):
    """A query over the 64K tokens of a shard of the cache."""
    mesh = aot.gpu_mesh(kind, context=1)

    def f(q, k, v, length):
        return attend(q, Segment(k, v, length))

    q, k, length = shapes(mesh, queries, SHARD, head_dim, dtype)
    return aot.compile(on(mesh, f), q, k, k, length, **options)


def causal(q, k, v):
    return attend(q, Segment(k, v, causal=True))


def attend(q, *segments):
    return triton.attend(q, segments, scale=0.1, soft_cap=None)


def on(mesh, f):
    return jax.shard_map(f, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)


def shapes(mesh, queries, keys, head_dim, dtype):
    """q, k (or v), and a length per row."""
    q = aot.abstract((1, queries, HEADS, head_dim), dtype, mesh)
    k = aot.abstract((1, keys, KV_HEADS, head_dim), dtype, mesh)
    return q, k, aot.abstract((1,), "int32", mesh)


def shared_memory_limit(kind: str) -> int:
    target = pathlib.Path(__file__).parent / "gpu_targets" / f"{kind}.txtpb"
    [limit] = re.findall(r"shared_memory_per_block_optin: (\d+)", target.read_text())
    return int(limit)


def check(folder, name, kind, label, capsys):
    """Tensor cores are used, registers suffice, and so does shared memory."""
    kernel = ptx.kernels(folder)[name]
    report = kernel.report()
    with capsys.disabled():
        print(
            f"\n{kind} {label}: {ptx.registers(report)} registers, {ptx.spills(report)} bytes"
            f" spilled, {kernel.shared_bytes} bytes of shared memory"
        )
    # Hopper multiplies 64 rows and more by its own instruction; nothing else has that.
    assert ("wgmma" in kernel.text) == (kind == "h200" and not label.startswith("decode few"))
    assert "mma.sync" in kernel.text or kind == "h200"
    assert "cp.async" in kernel.text  # keys are loaded ahead
    assert ptx.spills(report) == 0
    assert kernel.shared_bytes <= shared_memory_limit(kind)


@pytest.mark.parametrize(("kind", "head_dim", "dtype"), RUNS)
def test_prefill_compiles_without_spills(kind, head_dim, dtype, tmp_path, capsys):
    compile_prefill(kind, head_dim, dtype, **ptx.dump_to(tmp_path))
    check(tmp_path, "star_prefill", kind, f"prefill {head_dim} {dtype}", capsys)


@pytest.mark.parametrize("kind", ["h200", *further("a100", "l40s", "rtxpro6000")])
def test_odd_sizes_without_a_prefix_compile_without_spills(kind, tmp_path, capsys):
    """Seven heads to a group, rows of a batch, a length that no tile divides."""
    mesh = aot.gpu_mesh(kind, context=1)
    q, k = (aot.abstract((2, 5000, heads, 128), "bfloat16", mesh) for heads in (28, 4))
    aot.compile(on(mesh, causal), q, k, k, **ptx.dump_to(tmp_path))
    check(tmp_path, "star_prefill", kind, "prefill 128, odd sizes", capsys)


@pytest.mark.parametrize("queries", [1, 64])
@pytest.mark.parametrize(("kind", "head_dim", "dtype"), RUNS)
def test_decode_compiles_without_spills(kind, head_dim, dtype, queries, tmp_path, capsys):
    compile_decode(kind, head_dim, dtype, queries=queries, **ptx.dump_to(tmp_path))
    label = f"decode {'few' if queries == 1 else 'many'} {head_dim} {dtype}"
    check(tmp_path, "star_decode", kind, label, capsys)


@pytest.mark.parametrize(("queries", "name"), [(16, "star_decode"), (2048, "star_prefill")])
@pytest.mark.parametrize("head_dim", FEW)
@pytest.mark.parametrize("kind", ["h200", *further("a100")])
def test_strided_rows_over_far_keys_spill_nothing(kind, head_dim, queries, name, tmp_path, capsys):
    """What a correction asks: the rows of eight devices over a shard, from a later key on."""
    mesh = aot.gpu_mesh(kind, context=1)

    def f(q, k, v, length, begin):
        return attend(q, Segment(k, v, length, begin=begin))

    q, k, length = shapes(mesh, queries, SHARD, head_dim, "bfloat16")
    program = aot.compile(on(mesh, f), q, k, k, length, length, **ptx.dump_to(tmp_path))
    check(tmp_path, name, kind, f"far keys of {queries} rows, {head_dim}", capsys)
    assert aot.Program(program).moves(SHARD * KV_HEADS * head_dim) == []


# Gemma 2 9B, whose scores are capped; Gemma 3 27B; a head dim that has a tile of its own then.
MODELS = [  # heads, key heads, head dim, window, soft cap
    (16, 8, 256, 4096, 50.0),
    (32, 16, 128, 1024, None),
    (32, 8, 64, 4096, 50.0),
]


@pytest.mark.parametrize("model", MODELS, ids=[f"{h}-{w}" for _, _, h, w, _ in MODELS])
@pytest.mark.parametrize("kind", ["h200", *further("a100")])
def test_windows_spill_nothing(kind, model, tmp_path, capsys):
    """A block behind the keys before it that its first query sees. None is copied."""
    heads, kv_heads, head_dim, window, soft_cap = model
    mesh = aot.gpu_mesh(kind, context=1)
    q = aot.abstract((1, BLOCK, heads, head_dim), "bfloat16", mesh)
    k = aot.abstract((1, window - 1 + BLOCK, kv_heads, head_dim), "bfloat16", mesh)
    row = aot.abstract((1,), "int32", mesh)

    def f(q, k, v, length, offset, begin):
        own = Segment(k, v, length, True, offset, window=window, begin=begin)
        return triton.attend(q, [own], scale=0.1, soft_cap=soft_cap)

    program = aot.compile(on(mesh, f), q, k, k, row, row, row, **ptx.dump_to(tmp_path))
    check(tmp_path, "star_prefill", kind, f"window of {window}, {head_dim}", capsys)
    assert aot.Program(program).moves(BLOCK * kv_heads * head_dim) == []


CAPPED = [("a100", 256, 1), ("h200", 256, 64), ("a100", 256, 4096)]
CAPPED += further(("a100", 256, 64), ("h200", 256, 4096), ("rtxpro6000", 64, 4096))


@pytest.mark.parametrize(("kind", "head_dim", "queries"), CAPPED)
def test_soft_caps_spill_nothing(kind, head_dim, queries, tmp_path, capsys):
    """Of layers that see everything; 4096 queries with an anchor before them."""
    mesh = aot.gpu_mesh(kind, context=1)
    prefill = queries > 64
    q, k, length = shapes(mesh, queries, BLOCK if prefill else SHARD, head_dim, "bfloat16")

    def f(q, k, v, length):
        far = Segment(k, v, length)
        segments = [far, Segment(k, v, causal=True)] if prefill else [far]
        return triton.attend(q, segments, scale=0.1, soft_cap=50.0)

    aot.compile(on(mesh, f), q, k, k, length, **ptx.dump_to(tmp_path))
    name = "star_prefill" if prefill else "star_decode"
    size = {1: "few", 64: "many", 4096: "prefill"}[queries]
    check(tmp_path, name, kind, f"decode {size} with a soft cap, {head_dim}", capsys)
    assert "tanh" not in ptx.kernels(tmp_path)[name].text  # it is too coarse: see `kernels`


@pytest.mark.parametrize("head_dim", FEW)
def test_datacentre_blackwell_can_run_them(head_dim, tmp_path):
    """Where cuDNN is the default. Nothing is said of registers: head dim 64 spills there."""
    compile_prefill("b200", head_dim, **ptx.dump_to(tmp_path))
    assert "mma" in ptx.kernels(tmp_path)["star_prefill"].text


@pytest.mark.parametrize("kind", ["h200", *further("a100")])
def test_keys_and_queries_are_read_where_they_lie(kind):
    """No copy or transpose of them, and nothing is written but partials and their merge."""
    program = aot.Program(compile_prefill(kind, 128))
    assert program.moves(BLOCK * 128) == []
    assert [i.opcode for i in program.writes(BLOCK)] == ["custom-call"]
    for queries in (1, 64):
        program = aot.Program(compile_decode(kind, 128, queries=queries))
        assert program.moves(queries * 128) == []
        splits = decode.count_splits(KV_HEADS * max(1, queries * 4 // 128), SHARD, decode.FEW[128])
        assert max(i.elements for i in program.writes(1)) == splits * queries * HEADS * 128
        launches = [i for i in program.instructions() if "star_decode" in i.text]
        assert len([i for i in launches if i.opcode == "custom-call"]) == 1


def test_spills_are_found():
    """The check above can fail: a tile too large for its warps."""
    report = """
ptxas info    : Function properties for star_prefill
    112 bytes stack frame, 440 bytes spill stores, 512 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 432 bytes cmem[0]
"""
    assert ptx.spills(report) == 952
    assert ptx.registers(report) == 255


@pytest.mark.long
def test_a_tile_too_large_spills(tmp_path, monkeypatch):
    large = prefill.Tuning(queries=128, keys=64, num_warps=4, num_stages=2)
    monkeypatch.setitem(prefill.DEFAULTS, 128, large)
    compile_prefill("h200", 128, **ptx.dump_to(tmp_path))
    assert ptx.spills(ptx.kernels(tmp_path)["star_prefill"].report()) > 0


def test_lengths_are_constants_where_there_are_none():
    """Nothing runs but the kernel."""
    mesh = aot.gpu_mesh("a100", context=1)
    q, k, _ = shapes(mesh, 256, 256, 64, "bfloat16")
    program = aot.Program(aot.compile(on(mesh, causal), q, k, k))
    assert [i.opcode for i in program.writes(0)] == ["custom-call"]
