"""What `tests/mosaic` leaves out of its tables: other cases, and other shapes to compile."""

import pytest
from attention_cases import LATER
from mosaic import test_aot_mosaic as compiled
from mosaic import test_mosaic_decode as decode
from mosaic import test_mosaic_prefill as prefill
from mosaic.test_aot_mosaic_programs import HOPPER

from star_jax.attention import mosaic

HALF = (128, "float16")
HEAD_DIMS = [*((head_dim, "bfloat16") for head_dim in mosaic.HEAD_DIMS), HALF]
LEFT = [
    (module, run) for module in (prefill, decode) for run in module.ALL if run not in module.RUNS
]


@pytest.mark.parametrize(
    ("module", "run"), LEFT, ids=[f"{m.__name__}-{run[0].name}" for m, run in LEFT]
)
def test_the_kernels_equal_the_reference(module, run):
    module.test_the_kernel_equals_the_reference(*run)


@pytest.mark.parametrize(
    "name", [case.name for case in LATER if case.name not in prefill.CHOSEN_LATER]
)
def test_later_keys_alone_equal_the_reference(name, monkeypatch):
    prefill.test_later_keys_alone_equal_the_reference(name, monkeypatch)


@pytest.mark.parametrize("name", ["window of one", "window and lengths"])
def test_windows_equal_the_reference(name, monkeypatch):
    prefill.test_windows_and_soft_caps_equal_the_reference(name, monkeypatch)


@pytest.mark.parametrize(("head_dim", "dtype"), HEAD_DIMS)
@pytest.mark.parametrize("causal", [True, False])
def test_prefill_spills_nothing(head_dim, dtype, causal, tmp_path, monkeypatch):
    compiled.test_prefill_spills_nothing(head_dim, dtype, causal, tmp_path, monkeypatch)


@pytest.mark.parametrize(("head_dim", "dtype"), HEAD_DIMS)
@pytest.mark.parametrize("queries", [1, 64])
def test_decode_spills_nothing(head_dim, dtype, queries, tmp_path, monkeypatch):
    compiled.test_decode_spills_nothing(head_dim, dtype, queries, tmp_path, monkeypatch)


def test_windows_spill_nothing(tmp_path, monkeypatch):
    compiled.test_windows_spill_nothing("Gemma 3 27B", tmp_path, monkeypatch)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("queries", [16, 2048])
def test_strided_rows_over_far_keys_spill_nothing(head_dim, queries, tmp_path, monkeypatch):
    compiled.test_strided_rows_over_far_keys_spill_nothing(head_dim, queries, tmp_path, monkeypatch)


@pytest.mark.parametrize("program", ["later_wave", "query"])
def test_the_program(program):
    getattr(HOPPER, f"check_{program}")()
