"""The language model finds needles as it did when that was recorded. Hours, on two cores."""

import csv
import pathlib
import subprocess
import sys

import pytest

from tools import smollm2

ROOT = pathlib.Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "smollm2_needles.csv"
ROUNDING = 5.0  # points: one question of twenty, where two tokens are about as likely


def scores(path: pathlib.Path) -> dict[tuple[str, str, str], float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["task"], row["length"], row["row"]): float(row["score"]) for row in rows}


def run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)


@pytest.mark.parametrize("haystack", ["noise", "prose"])
def test_needles_are_found_as_recorded(tmp_path: pathlib.Path, haystack: str) -> None:
    smollm2.make()
    found: dict[tuple[str, str, str], float] = {}
    task = {"noise": "niah_single_1", "prose": "prose"}[haystack]
    recorded = {key: score for key, score in scores(RECORD).items() if key[0] == task}
    assert recorded, f"nothing is recorded: see configs/smollm2_needles.py:{haystack}"
    for length in sorted({length for _, length, _ in recorded}, key=int):
        lines, output = tmp_path / length / "prose.jsonl", tmp_path / f"{length}-out"
        run("tools.prose_needles", f"--output={lines}", f"--length={length}")
        flags = {
            "config": f"configs/smollm2_needles.py:{haystack}",
            "config.data.lengths": length,
            "config.output_dir": str(output),
        }
        if haystack == "prose":
            flags["config.data.path"] = str(lines)
        run("star_jax.eval", *(f"--{name}={value}" for name, value in flags.items()))
        found |= scores(output / "summary.csv")
    assert found.keys() == recorded.keys()
    for key, score in recorded.items():
        assert abs(found[key] - score) <= ROUNDING, key
