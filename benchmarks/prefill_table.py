"""What `benchmarks.prefill` has measured, as tables."""

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import table

Result = dict[str, Any]

# On an H200, with the shapes of Llama-3.1-8B: how many times as fast as dense, at this length.
TARGET, TARGET_ROW, TARGET_LENGTH = 1.7, "star b=16384", 131072


def of(record: dict[str, Any]) -> str:
    """A GPU's record: seconds, times as fast as the fastest dense attention, and memory."""
    results, fields = record["results"], record["model"]
    dense: dict[int, float] = {}
    for r in results:
        if r["block"] is None and "seconds" in r:
            seconds = r["seconds"]["median"]
            dense[r["length"]] = min(seconds, dense.get(r["length"], seconds))
    lines = [_line(r, dense.get(r["length"])) for r in sorted(results, key=lambda r: r["length"])]
    head = ["length", "row", "kernel", "seconds", "tokens/s", "x dense", "peak GiB"]
    about = (
        f"{record['device']}, {record['date']}; jax {record['versions']['jax']}. Phase 1 of "
        f"{fields['num_hidden_layers']} layers of width {fields['hidden_size']}, "
        f"{record['dtype']}, random weights:"
    )
    parts = [about, table(head, lines)]
    reached = [
        dense[r["length"]] / r["seconds"]["median"]
        for r in results
        if (r["row"], r["length"]) == (TARGET_ROW, TARGET_LENGTH)
        and "seconds" in r
        and r["length"] in dense
    ]
    if reached:
        parts.append(
            f"Target: {TARGET_ROW} at {TARGET_LENGTH} tokens at least {TARGET} times as fast as "
            f"dense; measured: {reached[0]:.2f}."
        )
    failed = {r["reason"]: r for r in results if "reason" in r}
    if failed:
        parts.append(
            "Not measured: " + "; ".join(f"{r['row']}, {why}" for why, r in failed.items())
        )
    return "\n\n".join(parts)


def _line(r: Result, dense: float | None) -> list[str]:
    cells = [str(r["length"]), r["row"], r["implementation"] or "-"]
    if "seconds" not in r:
        return [*cells, "out of memory" if r["reason"] == "out of memory" else "-", "-", "-", "-"]
    median, peak = r["seconds"]["median"], r["peak_bytes"]
    return [
        *cells,
        f"{median:.3g}",
        f"{r['length'] / median:.0f}",
        "-" if dense is None else f"{dense / median:.2f}",
        "-" if peak is None else f"{peak / 2**30:.1f}",
    ]


def cpu(results: Sequence[Result]) -> str:
    """Seconds, and how many times as fast as dense and as transformers: median (min..max)."""
    head = ["devices", "length", "row", "seconds", "x dense", "x transformers", "compile s"]
    lines = [
        [
            str(r["devices"]),
            str(r["length"]),
            r["row"],
            _cell(r["seconds"]),
            _cell(r["times_as_fast_as_dense"]),
            _cell(r["times_as_fast_as_transformers"]),
            f"{r['compile_seconds']:.1f}",
        ]
        for r in results
    ]
    return table(head, lines)


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    return f"{spread['median']:.2f} ({spread['min']:.2f}..{spread['max']:.2f})"
