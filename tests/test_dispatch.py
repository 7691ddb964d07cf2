"""Which implementation runs where, and what those that cannot say."""

import re

import aot
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import Case, check, make, reference_of
from programs import Shapes

import star_jax
from star_jax import OtherAnchor, Star, Streaming, attention
from star_jax.attention import Segment, mosaic
from star_jax.cache.layer import Plain
from star_jax.checks import check as check_kind
from star_jax.models import LayerSpec
from star_jax.runtime.runtime import Runtime

NEW = jax.version.__version_info__[:2] >= mosaic.JAX
HOPPER = "mosaic" if NEW else "triton"


def mesh(kind):
    return star_jax.make_mesh(context=2) if kind == "cpu" else aot.gpu_mesh(kind, context=2)


@pytest.mark.parametrize(
    ("kind", "dtype", "head_dim", "best"),
    [
        ("cpu", "float32", 64, "xla"),
        ("h200", "bfloat16", 128, HOPPER),
        ("h200", "float16", 96, HOPPER),
        ("h200", None, None, HOPPER),
        ("h200", "float32", 128, "xla"),
        ("h200", "bfloat16", 80, "xla"),
        ("b200", "bfloat16", 128, "triton"),
        ("b200", None, None, "triton"),
        ("b200", "float32", 128, "xla"),
        ("a100", "bfloat16", 128, "triton"),
        ("l40s", "bfloat16", 64, "triton"),
        ("a100", None, None, "triton"),
    ],
)
def test_none_is_the_best_for_the_devices_of_the_mesh(kind, dtype, head_dim, best):
    assert attention.resolve(None, mesh(kind), dtype=dtype, head_dim=head_dim) == best


@pytest.mark.parametrize(
    ("name", "kind", "dtype", "head_dim", "message"),
    [
        ("mosaic", "cpu", "bfloat16", 128, "'mosaic': .*Hopper GPU .*cpu"),
        ("mosaic", "a100", "bfloat16", 128, "Hopper GPU .*A100.*sm_80"),
        ("mosaic", "b200", "bfloat16", 128, "Hopper GPU .*B200.*sm_100"),
        ("triton", "cpu", "bfloat16", 128, "'triton': .*cpu"),
        ("triton", "a100", "float32", 128, "float32"),
        ("triton", "a100", "bfloat16", 80, "head_dim=80"),
        ("cudnn", "cpu", "bfloat16", 128, "'cudnn': .*cpu"),
        ("cudnn", "b200", "float32", 128, "float32"),
        ("cudnn", "b200", "bfloat16", 100, "head_dim=100"),
        ("cudnn", "a100", "bfloat16", 256, "head_dim=256"),
    ],
)
def test_one_that_cannot_serve_says_why(name, kind, dtype, head_dim, message):
    with pytest.raises(NotImplementedError, match=message):
        attention.resolve(name, mesh(kind), dtype=dtype, head_dim=head_dim)


def test_an_old_jax_says_so_or_a_new_one_serves():
    for dtype, head_dim, message in [("float32", 128, "float32"), ("bfloat16", 80, "head_dim=80")]:
        with pytest.raises(NotImplementedError, match=message if NEW else r"JAX 0\.11"):
            attention.resolve("mosaic", mesh("h200"), dtype=dtype, head_dim=head_dim)


def test_an_assembler_that_miscompiles_is_refused(monkeypatch):
    """See test_assembler.py for which it is."""
    monkeypatch.setattr(mosaic.assembler, "refusal", lambda: "it is one that miscompiles")
    assert attention.resolve(None, mesh("h200")) == "triton"
    reason = attention.implementations(mesh("h200").devices.flat[0])["mosaic"]
    assert ("miscompiles" if NEW else "JAX 0.11") in reason


def test_implementations_of_the_present_device():
    found = attention.implementations()
    assert set(found) == set(attention.IMPLEMENTATIONS)
    assert found["xla"] == found["reference"] == ""
    for name in ("cudnn", "mosaic", "triton"):
        assert re.search("cpu", found[name])


def test_implementations_of_another_device():
    found = attention.implementations(mesh("a100").devices.flat[0])
    assert found["triton"] == found["cudnn"] == found["xla"] == ""
    assert "sm_80" in found["mosaic"]


def causal(q, implementation):
    own = Segment(q, q, causal=True)
    return attention.partial_attention(q, [own], scale=1.0, implementation=implementation)


@pytest.mark.parametrize("name", ["cudnn", "mosaic", "triton"])
@pytest.mark.parametrize("jitted", [True, False])
def test_a_kernel_called_on_a_cpu_says_so(name, jitted):
    q = jnp.ones((1, 8, 2, 64), jnp.bfloat16)

    def run(q):
        return causal(q, name)

    message = rf"{name}.*(NVIDIA GPUs.*cpu|JAX 0\.11.*cpu)"
    with pytest.raises(NotImplementedError, match=message):
        (jax.jit(run) if jitted else run)(q)


@pytest.mark.parametrize("name", ["cudnn", "mosaic", "triton"])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "message"), [("float32", 64, "float32"), ("bfloat16", 44, "head_dim=44")]
)
def test_a_kernel_names_what_it_does_not_serve(name, dtype, head_dim, message):
    q = jnp.ones((1, 8, 2, head_dim), dtype)
    with pytest.raises(NotImplementedError, match=message):
        causal(q, name)


def test_kernels_count_in_32_bits():
    with jax.enable_x64(True):
        assert attention.resolve(None, mesh("a100"), dtype="bfloat16", head_dim=128) == "xla"
        for name, kind in [("triton", "a100"), *[("mosaic", "h200")] * NEW]:
            with pytest.raises(NotImplementedError, match="JAX_ENABLE_X64"):
                attention.resolve(name, mesh(kind))


def test_cudnn_has_no_offset():
    arrays, options = make(Case("", 8, 8, H=64, offset=(1, 2)), "bfloat16")
    with pytest.raises(NotImplementedError, match="offset"):
        attention.partial_attention(**arrays, **options, implementation="cudnn")


@pytest.mark.parametrize(
    ("name", "case", "message"),
    [
        ("cudnn", Case("", 8, 8, H=64, window=3), r"window=3.*xla"),
        ("cudnn", Case("", 8, 8, H=64, halo=4, halo_window=4), r"window=4.*xla"),
        ("cudnn", Case("", 8, 8, H=64, soft_cap=30.0), r"soft_cap=30\.0.*xla"),
        ("mosaic", Case("", 8, 8, H=64, halo=4, halo_window=4), r"window=4.*xla"),
        ("triton", Case("", 8, 8, H=64, halo=4, halo_window=4), r"window=4.*xla"),
    ],
)
def test_a_window_or_a_soft_cap_that_one_has_not_is_named(name, case, message):
    arrays, options = make(case, "bfloat16")
    with pytest.raises(NotImplementedError, match=f"{name}.*{message}"):
        attention.partial_attention(**arrays, **options, implementation=name)


@pytest.mark.parametrize("name", attention.IMPLEMENTATIONS)
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (4, None), (None, 50.0), (4, 50.0)])
def test_a_layer_that_one_does_not_serve_is_for_xla(name, window, soft_cap):
    """A named one, too: only the layers that it does not serve go to another."""
    plain = window is None and soft_cap is None
    serving = attention.for_layer(name, window=window, soft_cap=soft_cap)
    assert serving == ("xla" if name == "cudnn" and not plain else name)


def test_a_runtime_asks_for_each_layer():
    """Here the named one serves no layer, so that a plain one says so."""
    runtime = Runtime(Shapes(layers=2).config, mesh("cpu"), "cudnn", Plain)
    plain = LayerSpec(index=0, scale=1.0, rope=None)
    windowed = LayerSpec(index=1, scale=1.0, rope=None, window=3, soft_cap=5.0)
    arrays, _ = make(Case("", 8, 8, H=64, window=3), "bfloat16")
    expected = reference_of(arrays, {"scale": 1.0, "soft_cap": 5.0})
    check(runtime.attention(windowed)(arrays["q"], arrays["segments"]), expected, 1e-2)
    with pytest.raises(NotImplementedError, match="cudnn"):
        runtime.attention(plain)(arrays["q"], [Segment(arrays["q"], arrays["q"])])


@pytest.mark.parametrize(
    "kind",
    [Star(block_size=64, correction="delta"), OtherAnchor(block_size=64, anchor_size=8)],
    ids=["correction", "anchor"],
)
def test_cudnn_is_refused_early_what_hides_first_keys(kind):
    found = mesh("h200")
    with pytest.raises(NotImplementedError, match="implementation='cudnn', which shows queries"):
        check_kind(found, kind, "cudnn", dtype="bfloat16")
    assert check_kind(found, kind, "triton", dtype="bfloat16") == "triton"
    for served in (Star(block_size=64, halo=8), Streaming(sinks=4, window=8)):
        assert check_kind(found, served, "cudnn", dtype="bfloat16") == "cudnn"


@pytest.mark.parametrize("name", ["mosaic", "triton"])
def test_a_kernel_serves_a_prefix_and_one_segment_more(name):
    k = jnp.ones((1, 8, 2, 64), jnp.bfloat16)
    full, own = Segment(k, k), Segment(k, k, causal=True)
    for segments, kinds in [
        ([full, full, own], "not causal, not causal, causal"),
        ([own, full], "causal, not causal"),
    ]:
        with pytest.raises(NotImplementedError, match=f"{name} .*not {kinds}, as xla does"):
            attention.partial_attention(k, segments, scale=1.0, implementation=name)


@pytest.mark.parametrize("name", ["reference", "xla"])
def test_no_implementation_sees_an_empty_segment(name):
    for case in (
        Case("", 5, 0, prefix=7, prefix_length=(7, 3)),
        Case("", 5, 0, causal=False, prefix=0),
        Case("", 0, 5),
        Case("", 5, 5, prefix=0, prefix_length=(0, 0)),
    ):
        arrays, options = make(case, "float32")
        part = attention.partial_attention(**arrays, **options, implementation=name)
        if case.T and (case.S or case.prefix):
            check(part, reference_of(arrays, options), 2e-6)
        else:
            assert part.out.shape == arrays["q"].shape and not np.any(part.out)
            assert part.lse.shape == arrays["q"].shape[:3] and np.isneginf(part.lse).all()
