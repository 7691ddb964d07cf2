"""What `benchmarks.attention` has measured, as tables, beside what others have published."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.markdown import table

Row = dict[str, Any]

OURS = ("mosaic", "triton")
OTHERS = ("cudnn", "torch cudnn", "torch flash", "torch flash joined")
CUDNN = ("cudnn", "torch cudnn")

# TFLOP/s that others measured and published, at head dims 128 and 64. cuDNN 9.19.1 on an H200,
# 64 query heads, 8 key heads: the benchmark csv of cudnn-frontend. The Mosaic kernel of tokamax
# on an H100: its autotuning json, 2026-07-14.
PUBLISHED_CUDNN = {
    ("causal", 128): {2048: 484, 4096: 591, 8192: 644, 16384: 673, 32768: 688},
    ("full", 128): {2048: 633, 4096: 671, 8192: 691, 16384: 702, 32768: 693},
}
PUBLISHED_TOKAMAX = {
    ("causal", 128): {2048: 492, 4096: 568, 8192: 620, 16384: 636},
    ("full", 128): {2048: 606, 4096: 652, 8192: 671, 16384: 666},
    ("causal", 64): {2048: 345, 4096: 413, 8192: 465, 16384: 502},
    ("full", 64): {4096: 512, 8192: 528, 16384: 521},
}
TARGETS = {"causal": 620, "full": 670}  # TFLOP/s at head dim 128 on an H200, from 8K on
HOST_BOUND = (
    "\\* The host took more than half as long to launch these calls as they took: their time may "
    "be the host's, not the device's."
)
DECODE_TARGET = 0.85  # of the bandwidth of a copy, from 32K keys on


def of(record: Row) -> str:
    """All of it."""
    rows, copy = record["results"], record["ceilings"]["copy_bytes_per_second"]
    parts = [heading(record)]
    for head_dim in _distinct(rows, "head_dim"):
        mine = [r for r in rows if r["head_dim"] == head_dim]
        if prefill := [r for r in mine if r["kind"] != "decode"]:
            parts.append(f"Prefill, head dim {head_dim}, TFLOP/s:\n\n{_prefill(prefill)}")
        if decode := [r for r in mine if r["kind"] == "decode"]:
            title = f"Decoding, head dim {head_dim}, bytes of K and V as a share of a copy's:"
            parts.append(f"{title}\n\n{_decode(decode, copy)}")
    if verdicts := targets(record):
        parts.append("Targets:\n\n" + table(["target", "measured"], verdicts))
    if any(r.get("host_bound") for r in rows):
        parts.append(HOST_BOUND)
    if absent := record["absent"]:
        parts.append("Not there: " + "; ".join(f"{n} ({why})" for n, why in absent.items()))
    if failed := [r for r in rows if "reason" in r]:
        parts.append("Not measured:\n\n" + "\n".join(_failures(failed)))
    return "\n\n".join(parts)


def short(record: Row) -> str:
    """What matters most: heads of 128, as many as Llama 8B has."""
    rows, copy = record["results"], record["ceilings"]["copy_bytes_per_second"]
    mine = [r for r in rows if r["head_dim"] == 128 and r["model"] == "8B"]
    what = (
        "TFLOP/s with the heads of Llama 8B, head dim 128; of decoding, the bytes of K and V as a "
        "share of a copy's:"
    )
    parts = [f"{heading(record)} {what}"]
    if prefill := [r for r in mine if r["kind"] != "decode"]:
        parts.append(_prefill(prefill))
    if decode := [r for r in mine if r["kind"] == "decode"]:
        parts.append(_decode(decode, copy))
    if any(r.get("host_bound") for r in mine):
        parts.append(HOST_BOUND)
    return "\n\n".join(parts)


def heading(record: Row) -> str:
    """The device, what it reaches, and with what."""
    ceilings, versions = record["ceilings"], record["versions"]
    software = ", ".join(
        f"{name} {versions[name]}"
        for name in ("jax", "torch", "nvidia-cudnn-cu13")
        if name in versions
    )
    return (
        f"{record['device']}, {record['date']}; {software}. Copies at "
        f"{ceilings['copy_bytes_per_second'] / 1e12:.3g} TB/s (read and written), multiplies "
        f"bfloat16 matrices at {ceilings['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s."
        + ("" if record.get("complete", True) else " The run was cut short: rows are missing.")
    )


def line(rows: Iterable[Row]) -> str:
    """One problem, in a line."""
    return ", ".join(f"{r['contender']} {_rate(r)}" for r in rows)


def tflops(row: Row | None) -> float | None:
    """What it computes per second; None if it was not measured."""
    if row is None or "seconds" not in row:
        return None
    return row["flops"] / row["seconds"]["median"] / 1e12


def _rate(row: Row) -> str:
    found = tflops(row)
    if found is None:
        return "-"
    if row["kind"] == "decode":
        return f"{row['kv_bytes'] / row['seconds']['median'] / 1e9:.0f} GB/s{_mark(row)}"
    return f"{found:.3g}{_mark(row)}"


def _mark(row: Row) -> str:
    return "\\*" if row.get("host_bound") else ""


def _prefill(rows: Sequence[Row]) -> str:
    names = _distinct(rows, "contender")
    lines = []
    for (kind, head_dim, model, keys), found in _problems(rows):
        published = (p.get((kind, head_dim), {}) for p in (PUBLISHED_CUDNN, PUBLISHED_TOKAMAX))
        rates = (_rate(found[n]) if n in found else "" for n in names)
        ratio = _ratio(_fastest(found, OTHERS), _fastest(found, OURS))
        known = (str(p.get(keys, "-")) for p in published)
        lines.append([kind, model, str(keys), *rates, ratio, *known])
    last = ["ours : best other", "published: cuDNN, H200", "tokamax, H100"]
    return table(["attention", "heads of", "length", *names, *last], lines)


def _decode(rows: Sequence[Row], copy: float) -> str:
    names = _distinct(rows, "contender")
    lines = []
    for (_, _, model, keys), found in _problems(rows):
        cells = (_share_and_time(found.get(name), copy) for name in names)
        ratio = _ratio(_fastest(found, OTHERS), _fastest(found, OURS))
        lines.append([model, str(keys), *cells, ratio])
    return table(["heads of", "keys", *names, "ours : best other"], lines)


def _share_and_time(row: Row | None, copy: float) -> str:
    if row is None or "seconds" not in row:
        return "-"
    return f"{_share(row, copy):.0%} ({row['seconds']['median'] * 1e6:.0f} us){_mark(row)}"


def targets(record: Row) -> list[list[str]]:
    """What was aimed at, on an H200 at head dim 128, and what was measured."""
    copy = record["ceilings"]["copy_bytes_per_second"]
    rows = [r for r in record["results"] if r["head_dim"] == 128]
    problems = dict(_problems(rows))
    verdicts = []
    for (kind, head_dim, model, keys), found in problems.items():
        ours = _fastest(found, OURS)
        where = f"{kind}, {model} heads, {keys}"
        if ours is None:
            continue
        if kind == "decode" and keys >= 32768:
            share = _share(ours, copy)
            verdicts.append(
                [f"{where}: {DECODE_TARGET:.0%} of a copy", f"{share:.1%}{_mark(ours)}"]
            )
        if kind in TARGETS and keys >= 8192:
            verdicts.append(
                [f"{where}: {TARGETS[kind]} TFLOP/s", f"{tflops(ours):.0f}{_mark(ours)}"]
            )
        if kind != "anchor+local":
            continue
        if (two := _fastest(found, CUDNN)) is not None:
            target = f"{where}: faster than cuDNN's two calls and their merge"
            verdicts.append([target, _ratio(two, ours)])
        alone = [_fastest(problems.get((k, head_dim, model, keys), {}), CUDNN) for k in TARGETS]
        if all(alone):
            # The same pairs without a merge: the local keys causally, the anchor's in full.
            seconds = sum(a["seconds"]["median"] for a in alone if a)
            target = f"{where}: at least 95% of cuDNN's throughput, merge apart"
            verdicts.append([target, f"{seconds / ours['seconds']['median']:.1%}"])
    return verdicts


def _problems(rows: Sequence[Row]) -> list[tuple[tuple[str, int, str, int], dict[str, Row]]]:
    """By kind, head dim, model and keys: the rows by contender."""
    found: dict[tuple[str, int, str, int], dict[str, Row]] = {}
    for r in rows:
        key = (r["kind"], r["head_dim"], r["model"], r["keys"])
        found.setdefault(key, {})[r["contender"]] = r
    return sorted(found.items(), key=lambda item: (item[0][0], item[0][2] != "8B", item[0][3]))


def _fastest(found: dict[str, Row], names: Sequence[str]) -> Row | None:
    timed = [found[n] for n in names if "seconds" in found.get(n, {})]
    return min(timed, key=lambda r: r["seconds"]["median"], default=None)


def _ratio(slow: Row | None, fast: Row | None) -> str:
    """How many times as fast the second is."""
    if slow is None or fast is None:
        return "-"
    return f"{slow['seconds']['median'] / fast['seconds']['median']:.2f}"


def _share(row: Row, copy: float) -> float:
    return row["kv_bytes"] / row["seconds"]["median"] / copy


def _failures(rows: Sequence[Row]) -> list[str]:
    """Each reason once, and how often."""
    reasons: dict[tuple[str, str], int] = {}
    for r in rows:
        key = (r["contender"], r["reason"])
        reasons[key] = reasons.get(key, 0) + 1
    return [f"- {name}, {count} rows: {why}" for (name, why), count in reasons.items()]


def _distinct(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(r[name] for r in rows))
