"""Tables of what settings of Star Attention lose, and win back, from `benchmarks.accuracy`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import markdown

RESAMPLES = 4000
KINDS = ("needle", "copy", "prose")


def summarise(
    records: Sequence[Mapping[str, Any]], documents: Sequence[int]
) -> list[dict[str, Any]]:
    """One entry for each length and setting that each of the documents was asked with.

    Losses are beside exact attention; what is won back is a share of plain star's loss with the
    same block. Intervals (95%) are of resampled documents.
    """
    found = []
    for length in sorted({r["length"] for r in records}):
        by: dict[str, dict[int, Mapping[str, Any]]] = {}
        for r in records:
            if r["length"] == length:
                by.setdefault(r["setting"], {})[r["document"]] = r
        by = {s: of for s, of in by.items() if of.keys() >= set(documents)}
        values = {s: _values([of[i] for i in documents]) for s, of in by.items()}
        for setting, of in by.items():
            plain = next((w for w in setting.split() if w.startswith("block=")), "exact")
            entry: dict[str, Any] = {
                "length": length,
                "setting": setting,
                "documents": len(documents),
                "needles": sum(p["kind"] == "needle" for i in documents for p in of[i]["probes"]),
                "flops": of[documents[0]]["flops"],
            }
            if plain in by and setting != plain:
                entry["work"] = round(entry["flops"] / by[plain][documents[0]]["flops"], 4)
            for measure, mine in values[setting].items():
                entry[measure] = round(float(mine.mean()), 4)
                if setting not in (plain, "exact") and {plain, "exact"} <= values.keys():
                    better = 1 if measure == "points" else -1  # of nats, fewer are better
                    losses = (
                        better * (values["exact"][measure] - x)
                        for x in (values[plain][measure], mine)
                    )
                    entry[f"won_{measure}"] = _won_back(*losses)
            found.append(entry)
    return found


def _values(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """For each document, points of the needles, and nats a token of each kind of probe."""
    found: dict[str, list[float]] = {"points": []}
    for record in records:
        rights = [p["right"] for p in record["probes"] if p["kind"] == "needle"]
        found["points"].append(100 * float(np.mean(rights)))
        for kind in KINDS:
            nll = [p["nll"] for p in record["probes"] if p["kind"] == kind]
            found.setdefault(kind, []).append(float(np.mean(nll)))
    return {name: np.asarray(values) for name, values in found.items()}


def _won_back(lost: np.ndarray, left: np.ndarray) -> list[float] | None:
    """The share of what star loses that is won back, in percent, and its interval.

    None where star does not clearly lose: a share of nothing says nothing.
    """
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(lost), (RESAMPLES, len(lost)))
    each, rest = lost[which].mean(axis=1), left[which].mean(axis=1)
    loses = each > 0
    if lost.mean() <= 0 or loses.mean() < 0.975:
        return None
    share = 100 * (1 - left.mean() / lost.mean())
    shares = 100 * (1 - rest[loses] / each[loses])
    return [round(float(x), 1) for x in (share, *np.percentile(shares, [2.5, 97.5]))]


def of(results: Sequence[Mapping[str, Any]]) -> str:
    head = ["tokens", "setting", "n", "points", *KINDS, *(f"won {k}" for k in ("points", *KINDS))]
    lines = []
    for one in results:
        won = [_share(one.get(f"won_{k}")) for k in ("points", *KINDS)]
        numbers = [f"{one['points']:.1f}", *(f"{one[k]:.3f}" for k in KINDS)]
        work = f"{one['work']:.3f}" if "work" in one else ""
        lines.append(
            [str(one["length"]), one["setting"], str(one["needles"]), *numbers, *won, work]
        )
    return markdown.table([*head, "work"], lines)


def _share(won: Sequence[float] | None) -> str:
    if won is None:
        return ""
    share, low, high = (f"{x:.0f}" for x in won)
    return f"{share}% [{low}, {high}]"
