"""The language model finds needles as it did when that was recorded. Hours, on two cores."""

import csv
import pathlib
import subprocess
import sys

import pytest

from tools import smollm2

ROOT = pathlib.Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "smollm2_needles.csv"


def scores(path: pathlib.Path) -> dict[tuple[str, str, str], tuple[float, int]]:
    """Score and number of questions of each (task, length, row)."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["task"], row["length"], row["row"]): (float(row["score"]), int(row["n"]))
        for row in rows
    }


def run(*command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)


@pytest.mark.parametrize("haystack", ["noise", "prose"])
def test_needles_are_found_as_recorded(tmp_path: pathlib.Path, haystack: str) -> None:
    smollm2.make()
    found: dict[tuple[str, str, str], tuple[float, int]] = {}
    task = {"noise": "niah_single_1", "prose": "prose"}[haystack]
    recorded = {key: row for key, row in scores(RECORD).items() if key[0] == task}
    assert recorded, f"nothing is recorded: see configs/smollm2_needles.py:{haystack}"
    asked = {length: count for (_, length, _), (_, count) in recorded.items()}
    for length, count in asked.items():
        lines, output = tmp_path / length / "prose.jsonl", tmp_path / f"{length}-out"
        kinds = {row.partition("_")[0] for _, of, row in recorded if of == length}
        flags = {
            "config": f"configs/smollm2_needles.py:{haystack}",
            "config.attention.kind": ",".join(sorted(kinds)),
            "config.data.lengths": length,
            "config.data.num_samples": str(count),
            "config.output_dir": str(output),
        }
        if haystack == "prose":
            text = (f"--output={lines}", f"--length={length}", f"--num_samples={count}")
            run("tools.prose_needles", *text, "--asked=4")
            flags["config.data.path"] = str(lines)
        run("star_jax.eval", *(f"--{name}={value}" for name, value in flags.items()))
        found |= scores(output / "summary.csv")
    assert found.keys() == recorded.keys()
    for key, (score, count) in recorded.items():
        # One question may come out otherwise, where two tokens are about as likely.
        assert abs(found[key][0] - score) <= 100 / count + 0.01, key
