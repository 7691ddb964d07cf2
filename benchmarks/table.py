"""Writes the tables of both READMEs, and a plot, from the results that are recorded.

    python -m benchmarks.table

Between two marker comments, and nothing else; no number appears there that no run has written.
"""

import collections
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from benchmarks import (
    accuracy_plot,
    accuracy_table,
    attention_table,
    markdown,
    needles_table,
    prefill_table,
)
from star_jax import models

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = "benchmarks/results"
ACCURACY, PLOT = f"{RESULTS}/accuracy_smollm2.json", "docs/accuracy.svg"
NONE_YET = (
    "No GPU has been measured yet. On a machine with one, from the repository's root:\n\n"
    "    python -m benchmarks.attention --out=benchmarks/results/attention_h200.json\n"
    "    python -m benchmarks.prefill --model=llama31_8b "
    "--out=benchmarks/results/prefill_h200.json\n"
    "    python -m benchmarks.table"
)

Record = dict[str, Any]


def main() -> None:
    for path in FILES:
        (ROOT / path).write_text(rewritten(path, ROOT))
    (ROOT / PLOT).write_text(plot(ROOT))


def rewritten(path: str, root: pathlib.Path) -> str:
    """The README at this path, as the results under `root` want it.

    Raises:
      ValueError: it has not the markers that are expected, in that order.
    """
    text = (root / path).read_text()
    wanted = FILES[path]
    found = re.findall(r"<!-- (\w+): python -m benchmarks.table -->", text)
    if found != list(wanted):
        raise ValueError(f"{path} has the markers {found}, not {list(wanted)}")
    for name, make in wanted.items():
        begin, end = f"<!-- {name}: python -m benchmarks.table -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not closed:
            raise ValueError(f"{path} has no {end!r}")
        text = f"{head}{begin}\n\n{make(root)}\n\n{end}{tail}"
    return text


def plot(root: pathlib.Path) -> str:
    """The plot of the record of accuracy, as SVG."""
    return accuracy_plot.svg(_at_every_length(root), measure="needle")


def _at_every_length(root: pathlib.Path) -> list[Record]:
    """What accuracy is of settings that were tried at every length."""
    results = json.loads((root / ACCURACY).read_text())["results"]
    lengths = {one["length"] for one in results}
    tried = collections.Counter(one["setting"] for one in results)
    return [one for one in results if tried[one["setting"]] == len(lengths)]


def _records(root: pathlib.Path, pattern: str) -> list[Record]:
    """The records of GPUs; `*_cpu.json` is none."""
    paths = sorted((root / RESULTS).glob(pattern))
    return [json.loads(p.read_text()) for p in paths if not p.stem.endswith("_cpu")]


def _gpu(root: pathlib.Path, attention: Callable[[Record], str]) -> str:
    parts = [attention(record) for record in _records(root, "attention_*.json")]
    parts += [prefill_table.of(record) for record in _records(root, "prefill_*.json")]
    return "\n\n".join(parts) if parts else NONE_YET


def _cpu_record(root: pathlib.Path) -> Record:
    return json.loads((root / RESULTS / "prefill_cpu.json").read_text())


def _cpu(root: pathlib.Path) -> str:
    record = _cpu_record(root)
    versions = ", ".join(f"{n} {record['versions'][n]}" for n in ("jax", "torch", "transformers"))
    about = f"{record['cpu']}, {record['cores']} cores, {record['date']}; {versions}."
    return f"{prefill_table.cpu(record['results'])}\n\n{about}"


def _cpu_ratios(root: pathlib.Path) -> str:
    """How many times as fast as dense each row is, one column a length."""
    results = _cpu_record(root)["results"]
    lengths = sorted({r["length"] for r in results})
    head = ["times as fast as our dense attention", *(f"{n // 1024}K" for n in lengths)]
    lines = []
    for (row, devices), name in _SHOWN.items():
        mine = {r["length"]: r for r in results if (r["row"], r["devices"]) == (row, devices)}
        ratios = (mine[length]["times_as_fast_as_dense"] for length in lengths)
        cells = (f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for r in ratios)
        lines.append([name, *cells])
    return markdown.table(head, lines)


def _language(root: pathlib.Path) -> str:
    """What `make demo-language` printed, as it is."""
    lines = (root / RESULTS / "demo_language.txt").read_text().rstrip().splitlines()
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _accuracy(root: pathlib.Path) -> str:
    return accuracy_table.of(_at_every_length(root))


def _models(root: pathlib.Path) -> str:
    """The families that are supported."""
    del root
    lines = [[family.models, f"`{family.name}`"] for family in models.families().values()]
    return markdown.table(["models", "`model_type`"], lines)


_SHOWN = {
    ("star L/8", 1): "star, blocks of L/8, one device",
    ("star L/8, mended", 1): "star, blocks of L/8, halo and correction, one device",
    ("star L/4", 1): "star, blocks of L/4, one device",
    ("star L/8", 8): "star, blocks of L/8, eight simulated devices",
    ("star L/8, mended", 8): "star, blocks of L/8, halo and correction, eight simulated devices",
    ("ring", 8): "ring, eight simulated devices",
    ("transformers", 1): "`transformers` with SDPA",
}

# Of each file, what stands between its markers, in order.
FILES: dict[str, dict[str, Callable[[pathlib.Path], str]]] = {
    "README.md": {
        "gpu": lambda root: _gpu(root, attention_table.short),
        "cpu": _cpu_ratios,
        "language": _language,
        "needles": lambda root: needles_table.of(root / RESULTS / "smollm2_needles.csv"),
        "accuracy": _accuracy,
        "models": _models,
    },
    "benchmarks/README.md": {
        "gpu": lambda root: _gpu(root, attention_table.of),
        "cpu": _cpu,
    },
}


if __name__ == "__main__":
    main()
