"""The tables of the READMEs are those that the recorded results make."""

import json
import pathlib
import re
import shutil
from xml.etree import ElementTree

import pytest

from benchmarks import table

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("path", table.FILES)
def test_what_is_committed_is_what_is_generated(path):
    assert (ROOT / path).read_text() == table.rewritten(path, ROOT), (
        "run python -m benchmarks.table"
    )


def test_the_plot_is_that_of_the_record():
    assert (ROOT / table.PLOT).read_text() == table.plot(ROOT), "run python -m benchmarks.table"
    root = ElementTree.fromstring(table.plot(ROOT))
    results = json.loads((ROOT / table.ACCURACY).read_text())["results"]
    bars = [one for one in root.iter() if one.tag.endswith("rect")][1:]
    lengths: dict[str, set[int]] = {}
    for one in results:
        lengths.setdefault(one["setting"], set()).add(one["length"])
    everywhere = {s for s, of in lengths.items() if of == set.union(*lengths.values())}
    shown = [one for one in results if "won_needle" in one and one["setting"] in everywhere]
    assert len(bars) == len(shown) > 2  # what was measured at every length


@pytest.fixture
def copy(tmp_path):
    records = (
        *("prefill_cpu.json", "demo_language.txt"),
        *("smollm2_needles.csv", "accuracy_smollm2.json"),
    )
    for path in (*table.FILES, *(f"{table.RESULTS}/{name}" for name in records)):
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


def test_needles_stand_side_by_side(copy):
    head = "task,length,kind,anchor_size,n,score"
    lines = ["dense,,20,100.0", "star,256,20,95.0", "star,0,20,50.0"]
    text = "\n".join([head, *(f"niah_single_1,1024,{line}" for line in lines)])
    (copy / table.RESULTS / "smollm2_needles.csv").write_text(text + "\n")
    (line,) = re.findall(r"\| a needle in noise .*", table.rewritten("README.md", copy))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["1024", "20", "100.0", "95.0", "50.0", "+45.0"]


def test_a_marker_that_is_gone_is_missed(copy):
    readme = copy / "README.md"
    readme.write_text(readme.read_text().replace("<!-- end of gpu -->", ""))
    with pytest.raises(ValueError, match="end of gpu"):
        table.rewritten("README.md", copy)
    readme.write_text(readme.read_text().replace("<!-- cpu: ", "<!-- "))
    with pytest.raises(ValueError, match="has the markers"):
        table.rewritten("README.md", copy)
