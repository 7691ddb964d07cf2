"""The results of a run, from its record files: summary.csv, summary.md, and the printed table."""

import csv
import dataclasses
import io
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from star_jax.eval import averages, intervals, metrics, perplexity
from star_jax.eval.rows import Row
from star_jax.printable import printable
from star_jax.runs import records

FILES = ("manifest.json", "summary.csv", "summary.md")  # of a run, beside the rows' folders

_HOW = (  # contexts are encoded; each kind has some of these
    *("block_size", "anchor_size", "halo", "correction", "stride"),
    *("content", "positions", "sinks", "window"),
)
_FIELDS = (
    *("task", "length", "row", "kind", *_HOW, "metric", "n"),
    *("score", "score_low", "score_high", "published", "diff", "diff_low", "diff_high"),
    *("perplexity", "perplexity_low", "perplexity_high"),
    *("perplexity_diff", "perplexity_diff_low", "perplexity_diff_high"),
    *("n_whole", "score_whole", "diff_whole", "n_cut", "score_cut"),
    *("blocks", "time_prefill", "time_decode", "time_compile"),
    *("time_prefill_rate", "time_per_token", "notes"),
)
_HEAD = """\
Scores and differences are in points of 100, with 95% intervals: of scores Wilson's, of paired
differences to exact attention Newcombe's; where scores have fractions, wider ones made of Clopper
and Pearson's. Whole and cut: needles inside one block, and needles
that a block edge cuts. Prefill counts the tokens of the contexts; s/token are the seconds of
phase 2, query included, for each generated token. Compiling (total seconds) is in neither.
"""
_PERPLEXITY = """\
Perplexity is that of the reference answers, with intervals by the delta method; its difference to
exact attention's is paired, too.
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of one cell, and where its records are."""

    task: str
    length: int | None
    row: Row
    path: str
    published: float | None = None  # in points, where there is a score to compare with


@dataclasses.dataclass(frozen=True)
class Answered:
    """What counts of a record."""

    score: float | None
    metric: str | None
    is_cut: bool | None
    n_context_tokens: int
    n_generated: int
    times: dict[str, float]
    logprob: float | None = None  # of the reference, where it was measured
    n_scored: int = 0


def write(
    directory: str, entries: Sequence[Entry], *, devices: int, peak_memory: int | None
) -> str:
    """Writes summary.csv and summary.md; returns the table.

    devices: on the context axis. peak_memory: of a device, in bytes, where it is known.
    """
    summary = summarise(entries, devices=devices)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary)
    records.write_atomically(os.path.join(directory, "summary.csv"), text.getvalue())
    table = render(summary) + metrics.paragraph(summary) + averages.paragraph(summary)
    if peak_memory is not None:
        table += f"\n\nPeak memory of a device in this run: {peak_memory / 2**30:.2f} GiB."
    records.write_atomically(os.path.join(directory, "summary.md"), f"# Results\n\n{table}\n")
    return table


def summarise(entries: Sequence[Entry], *, devices: int) -> list[dict[str, Any]]:
    """One dictionary per entry, with `_FIELDS` as keys; None where a field does not apply."""
    summary = []
    exact: dict[tuple[str, int | None], list[Answered]] = {}
    answers = [_read(entry.path) for entry in entries]
    for entry, answered in zip(entries, answers, strict=True):
        if entry.row.is_exact:  # the first one; they differ by rounding alone
            exact.setdefault((entry.task, entry.length), answered)
    for entry, answered in zip(entries, answers, strict=True):
        sizes = entry.row.attention.sizes
        beside = exact.get((entry.task, entry.length)) if sizes or not entry.row.is_exact else None
        blocks = None
        if "block_size" in sizes:
            blocks = -(-max(one.n_context_tokens for one in answered) // sizes["block_size"])
        summary.append(
            {
                "task": entry.task,
                "length": entry.length,
                "row": entry.row.name,
                "kind": entry.row.attention.name,
                **dict.fromkeys(_HOW),
                **sizes,
                **entry.row.attention.mending,
                "metric": answered[0].metric,
                "n": len(answered),
                **_score(answered),
                "published": entry.published,
                **_difference(answered, beside),
                **_perplexity(answered, beside),
                **_needles(answered, beside),
                "blocks": blocks,
                **_times(answered),
                "notes": "; ".join(_notes(answered, entry.row, blocks, devices)),
            }
        )
    return summary


def _read(path: str) -> list[Answered]:
    return [
        Answered(
            one["score"],
            one.get("metric"),
            one.get("needle_cut"),
            one["n_context_tokens"],
            one["n_generated"],
            {name: value for name, value in one.items() if name.startswith("time_")},
            one.get("logprob"),
            one.get("n_scored", 0),
        )
        for one in records.read(path)
    ]


def _score(answered: Iterable[Answered]) -> dict[str, float | None]:
    scores = [one.score for one in answered if one.score is not None]
    if not scores:
        return dict.fromkeys(("score", "score_low", "score_high"))
    mean = statistics.fmean(scores)
    low, high = intervals.of_mean(scores)
    return {"score": _points(mean), "score_low": _points(low), "score_high": _points(high)}


def _difference(
    answered: Sequence[Answered], exact: Sequence[Answered] | None
) -> dict[str, float | None]:
    """The mean difference over the same questions, and its interval."""
    pairs = [
        (one.score, other.score)
        for one, other in zip(answered, exact or answered[:0], strict=exact is not None)
        if one.score is not None and other.score is not None
    ]
    if not pairs:
        return dict.fromkeys(("diff", "diff_low", "diff_high"))
    mean = statistics.fmean(score - other for score, other in pairs)
    low = high = None
    if len(pairs) > 1:
        low, high = map(_points, intervals.of_difference(*zip(*pairs, strict=True)))
    return {"diff": _points(mean), "diff_low": low, "diff_high": high}


def _perplexity(
    answered: Sequence[Answered], exact: Sequence[Answered] | None
) -> dict[str, float | None]:
    """Of the references, with what it is more than exact attention's; see `perplexity`."""
    found = dict[str, float | None].fromkeys(
        f"perplexity{of}{end}" for of in ("", "_diff") for end in ("", "_low", "_high")
    )
    measured = [(one.logprob, one.n_scored) for one in answered if one.logprob is not None]
    if not measured:
        return found
    logprobs, counts = zip(*measured, strict=True)

    def note(name: str, value: float, interval: intervals.Interval | None) -> None:
        low, high = interval or (None, None)
        found.update({name: value, f"{name}_low": low, f"{name}_high": high})

    note("perplexity", perplexity.of(logprobs, counts), perplexity.interval(logprobs, counts))
    if exact is not None:
        others = [one.logprob for one in exact if one.logprob is not None]
        note("perplexity_diff", *perplexity.difference(logprobs, others, counts))
    return found


def _needles(answered: Sequence[Answered], exact: Sequence[Answered] | None) -> dict[str, Any]:
    """The scores on needles inside one block, and on those that a block edge cuts."""
    whole = [i for i, one in enumerate(answered) if one.is_cut is False]
    cut = [one for one in answered if one.is_cut]
    if not whole and not cut:
        return dict.fromkeys(("n_whole", "score_whole", "diff_whole", "n_cut", "score_cut"))
    of_whole = [answered[i] for i in whole]
    beside = None if exact is None else [exact[i] for i in whole]
    return {
        "n_whole": len(whole),
        "score_whole": _score(of_whole)["score"],
        "diff_whole": _difference(of_whole, beside)["diff"],
        "n_cut": len(cut),
        "score_cut": _score(cut)["score"],
    }


def _times(answered: Sequence[Answered]) -> dict[str, float | None]:
    def values(name: str) -> list[float]:
        return [one.times[name] for one in answered]

    def share(of: float | int, by: float | int) -> float | None:
        return round(of / by, 6) if by else None

    prefill, decode = sum(values("time_prefill")), sum(values("time_decode"))
    return {
        "time_prefill": round(statistics.median(values("time_prefill")), 6),
        "time_decode": round(statistics.median(values("time_decode")), 6),
        "time_compile": round(sum(values("time_compile")), 6),
        "time_prefill_rate": share(sum(one.n_context_tokens for one in answered), prefill),
        "time_per_token": share(decode, sum(one.n_generated for one in answered)),
    }


def _notes(answered: Sequence[Answered], row: Row, blocks: int | None, devices: int) -> list[str]:
    """What one should know before reading much into a row."""
    notes = []
    if unscored := sum(one.score is None and one.logprob is None for one in answered):
        notes.append(f"{unscored} of {len(answered)} questions have no reference answer")
    if blocks is None:
        return notes
    count = f"{blocks} block{'s' * (blocks > 1)}"
    is_whole = row.keep is None and row.cache_dtype is None
    sizes, is_first = row.attention.sizes, "content" not in row.attention.mending
    sees_all = is_first and sizes["anchor_size"] == sizes["block_size"]
    if is_whole and (blocks == 1 or (blocks == 2 and sees_all)):
        notes.append(f"{count}: this is exact attention")
    elif blocks <= 2:
        notes.append(f"{count}: exact attention would be as fast")
    if blocks < devices:
        notes.append(f"{count} for {devices} devices: {devices - blocks} idle in phase 1")
    return notes


def _points(share: float) -> float:
    return round(100 * share, 2)


def render(summary: Sequence[Mapping[str, Any]]) -> str:
    """The table as text that is also Markdown, and under it the notes."""
    has_exact = any(one["diff"] is not None for one in summary)
    has_needles = any(one["n_whole"] is not None for one in summary)
    columns = [
        ("task", [_cell(one["task"]) for one in summary]),
        ("length", [_or_dash(one["length"], "{}") for one in summary]),
        ("row", [one["row"] for one in summary]),
        ("n", [str(one["n"]) for one in summary]),
        ("score", [_or_dash(one["score"], "{:.1f}") for one in summary]),
        ("95%", [_interval(one, "score", "{:.1f}") for one in summary]),
    ]
    if any(one["published"] is not None for one in summary):
        scores = [_or_dash(one["published"], "{:.1f}") for one in summary]
        columns.append(("published", scores))
    if has_exact:
        columns += [
            ("vs exact", [_or_dash(one["diff"], "{:+.1f}") for one in summary]),
            ("95%", [_interval(one, "diff", "{:+.1f}") for one in summary]),
        ]
    has_perplexity = any(one["perplexity"] is not None for one in summary)
    if has_perplexity:
        columns += [
            ("perplexity", [_or_dash(one["perplexity"], "{:.5g}") for one in summary]),
            ("95%", [_interval(one, "perplexity", "{:.5g}") for one in summary]),
            ("vs exact", [_or_dash(one["perplexity_diff"], "{:+.3g}") for one in summary]),
            ("95%", [_interval(one, "perplexity_diff", "{:+.3g}") for one in summary]),
        ]
    if has_needles:
        columns.append(("whole (n)", [_with_count(one, "whole") for one in summary]))
        if has_exact:
            columns.append(
                ("vs exact", [_or_dash(one["diff_whole"], "{:+.1f}") for one in summary])
            )
        columns.append(("cut (n)", [_with_count(one, "cut") for one in summary]))
    columns += [
        (
            "prefill tok/s",
            [_or_dash(one["time_prefill_rate"], "{:.0f}") for one in summary],
        ),
        ("s/token", [_or_dash(one["time_per_token"], "{:.3g}") for one in summary]),
        ("compile s", [f"{one['time_compile']:.3g}" for one in summary]),
    ]
    notes = _grouped(summary)
    head = _HEAD + _PERPLEXITY * has_perplexity
    return "\n".join([_markdown(columns), "", head.rstrip(), *([""] if notes else []), *notes])


def _grouped(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each note once, with the rows, tasks and lengths that it is about."""
    about: dict[str, list[Mapping[str, Any]]] = {}
    for one in summary:
        for note in filter(None, one["notes"].split("; ")):
            about.setdefault(note, []).append(one)
    lines = []
    for note, ones in about.items():
        rows, tasks, lengths = (
            ", ".join(dict.fromkeys(names))
            for names in (
                [one["row"] for one in ones],
                [_cell(one["task"]) for one in ones],
                [str(one["length"] or "all") for one in ones],
            )
        )
        lines.append(f"- {rows}, {tasks} @ {lengths}: {note}")
    return lines


def _markdown(columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table that is aligned as it stands; words to the left, numbers to the right."""
    padded = []
    for name, cells in columns:
        width = max(map(len, ("---", name, *cells)))
        if name in ("task", "row"):
            column = [name.ljust(width), "-" * width, *(cell.ljust(width) for cell in cells)]
        else:
            rule = "-" * (width - 1) + ":"
            column = [name.rjust(width), rule, *(cell.rjust(width) for cell in cells)]
        padded.append(column)
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*padded, strict=True))


def _cell(name: str) -> str:
    """The name of a file, maybe, as it can stand in a table."""
    return printable(name).replace("|", r"\|")


def _or_dash(value: float | int | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _interval(one: Mapping[str, Any], name: str, form: str) -> str:
    low, high = one[f"{name}_low"], one[f"{name}_high"]
    return "-" if low is None else f"{form.format(low)} to {form.format(high)}"


def _with_count(one: Mapping[str, Any], name: str) -> str:
    if not one[f"n_{name}"]:
        return "-"
    return f"{_or_dash(one[f'score_{name}'], '{:.1f}')} ({one[f'n_{name}']})"
