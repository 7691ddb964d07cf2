"""The benchmark of fewer keys: its documents, its table, its picture."""

import json
import pathlib
from typing import Any, cast

import pytest

from benchmarks import accuracy_probes, fewer_keys, fewer_keys_plot


def record(document: int, share: float, criterion: str, right: list[int], size: int) -> Any:
    return {
        "length": 64,
        "document": document,
        "share": share,
        "criterion": criterion,
        "cache": "model",
        "bytes": size,
        "right": right,
        "needle_nll": [0.5, 1.5],
        "prose_nll": 30.0,
        "prose": 10 + document,
    }


RECORDS = [
    record(0, 1.0, "", [1, 1], 100),
    record(0, 0.5, "norm", [1, 0], 60),
    record(1, 1.0, "", [1, 0], 100),
    record(1, 0.5, "norm", [0, 0], 60),
    record(2, 1.0, "", [0, 0], 100),  # which the other cell lacks yet
]


def test_a_table_is_of_the_documents_that_all_cells_have() -> None:
    full, half = fewer_keys.table(RECORDS)
    assert (full["criterion"], full["questions"], full["right"]) == ("all", 4, 75.0)
    assert (half["criterion"], half["right"], half["of_plain"]) == ("norm", 25.0, 0.6)
    assert half["needle_nll"] == 1.0
    assert half["prose_tokens"] == 21
    assert half["prose_nll"] == pytest.approx(60 / 21, abs=1e-4)


def test_cells_are_all_keys_and_each_share_by_each_criterion() -> None:
    found = fewer_keys.cells(["0.5", "0.25"], ["norm", "random"], ["model"])
    assert [cell.name["share"] for cell in found] == [1.0, 0.5, 0.5, 0.25, 0.25]
    assert [cell.name["criterion"] for cell in found] == ["", *["norm", "random"] * 2]


def test_records_of_other_blocks_are_others(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(accuracy_probes, "about", lambda engine: {"weights": "some"})
    path, engine = tmp_path / "records.jsonl", cast(Any, None)
    of = fewer_keys.about(engine, blocks=8, needles=4)
    path.write_text(json.dumps({"of": of}) + '\n{"document": 0}\n')
    assert accuracy_probes.read(path, of) == [{"document": 0}]
    with pytest.raises(ValueError, match=r"this run is of.*'blocks': 16"):
        accuracy_probes.read(path, fewer_keys.about(engine, blocks=16, needles=4))


def test_a_picture_has_a_line_for_each_criterion() -> None:
    rows = json.loads(json.dumps(fewer_keys.table(RECORDS)), parse_float=str, parse_int=str)
    assert fewer_keys_plot.lines(rows) == {"norm": [(1.0, 75.0), (0.6, 25.0)]}
    assert fewer_keys_plot.draw(rows)[:4] == b"\x89PNG"
