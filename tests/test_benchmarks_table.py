"""The tables of the READMEs are those that the recorded results make."""

import json
import pathlib
import shutil

import pytest

from benchmarks import table

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("path", table.FILES)
def test_what_is_committed_is_what_is_generated(path):
    assert (ROOT / path).read_text() == table.rewritten(path, ROOT), (
        "run python -m benchmarks.table"
    )


@pytest.fixture
def copy(tmp_path):
    for path in (*table.FILES, f"{table.RESULTS}/prefill_cpu.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_without_results_of_a_gpu_there_are_no_numbers_of_one(copy):
    for path in table.FILES:
        text = table.rewritten(path, copy)
        assert table.NONE_YET in text and "TFLOP/s with" not in text


def test_results_of_a_gpu_replace_the_note(copy):
    record = {
        "device": "NVIDIA H200 (sm_90)",
        "date": "2026-01-01",
        "dtype": "bfloat16",
        "versions": {"jax": "0.11.2"},
        "model": {"num_hidden_layers": 32, "hidden_size": 4096},
        "results": [
            {
                "row": "dense",
                "block": None,
                "implementation": "mosaic",
                "length": 16384,
                "seconds": {"median": 0.5},
                "peak_bytes": 2**35,
            }
        ],
    }
    (copy / table.RESULTS / "prefill_h200.json").write_text(json.dumps(record))
    for path in table.FILES:
        text = table.rewritten(path, copy)
        assert "NVIDIA H200 (sm_90), 2026-01-01" in text and table.NONE_YET not in text
        (copy / path).write_text(text)
        assert table.rewritten(path, copy) == text


def test_a_marker_that_is_gone_is_missed(copy):
    readme = copy / "README.md"
    readme.write_text(readme.read_text().replace("<!-- end of gpu -->", ""))
    with pytest.raises(ValueError, match="end of gpu"):
        table.rewritten("README.md", copy)
    readme.write_text(readme.read_text().replace("<!-- cpu: ", "<!-- "))
    with pytest.raises(ValueError, match="has the markers"):
        table.rewritten("README.md", copy)
