"""Seconds, with compilation apart, and memory."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

# Tracing, lowering and compiling; the spans of nested functions overlap.
_COMPILING = "/jax/core/compile/"

_listening = False
_spans: list[tuple[float, float]] = []  # disjoint, in order


class Stopwatch:
    """Measures a `with` block: `seconds` of running, `compile_seconds` of compiling."""

    seconds = 0.0
    compile_seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._compiled = compiled()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        elapsed = time.perf_counter() - self._start
        self.compile_seconds = compiled() - self._compiled
        self.seconds = max(0.0, elapsed - self.compile_seconds)


def peak_memory(devices: Iterable[Any]) -> int | None:
    """The most bytes that any device of this process held so far; None where it does not tell."""
    stats = [d.memory_stats() for d in devices if d.process_index == jax.process_index()]
    peaks = [one["peak_bytes_in_use"] for one in stats if one and "peak_bytes_in_use" in one]
    return max(peaks, default=None)


def rates(answers: Sequence[Mapping[str, Any]], peak: int | None) -> str:
    """How fast these records were answered, in a line. `peak`: see `peak_memory`."""
    prefill, decode, compiling = (
        math.fsum(one[f"time_{name}"] for one in answers)
        for name in ("prefill", "decode", "compile")
    )
    tokens, made = (
        sum(one[f"n_{name}"] for one in answers) for name in ("context_tokens", "generated")
    )
    parts = [
        f"prefill {tokens / prefill:.0f} tokens/s" if prefill else "",
        f"{decode / made:.3g} s/token" if made else "",
        f"compiling {compiling:.1f} s",
        f"peak memory of a device {peak / 2**30:.2f} GiB" if peak is not None else "",
    ]
    return ", ".join(filter(None, parts))


def compiled() -> float:
    """Seconds of compiling since the first call."""
    global _listening
    if not _listening:
        jax.monitoring.register_event_time_span_listener(_record)
        _listening = True
    return math.fsum(end - start for start, end in _spans)


def _record(event: str, start_time: float, end_time: float, **labels: str | int) -> None:
    """Adds a span. An outer one ends, and so is reported, after all those that it contains."""
    del labels
    if not event.startswith(_COMPILING):
        return
    while _spans and _spans[-1][0] >= start_time:
        _spans.pop()
    start = max(start_time, _spans[-1][1]) if _spans else start_time
    if end_time > start:
        _spans.append((start, end_time))
