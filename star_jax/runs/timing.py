"""Seconds, with compilation apart, and memory."""

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

# Tracing, lowering and compiling. They nest, and threads may compile side by side.
_COMPILING = "/jax/core/compile/"


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
    global _compiling
    if _compiling is None:
        _compiling = _Compiling()
        jax.monitoring.register_scalar_listener(_compiling.begin)
        jax.monitoring.register_event_duration_secs_listener(_compiling.end)
    return _compiling.seconds()


class _Compiling:
    """Seconds during which anything is compiled, of a clock that nobody sets.

    JAX reports when a stage begins, and when it ends. The times that it gives are of the wall
    clock, so they are not used: it is read here when the reports come.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._since = 0.0  # when the first of those under way began
        self._done = 0.0

    def begin(self, event: str, value: float | int, **labels: str | int) -> None:
        """A stage begins."""
        del value, labels
        if event.startswith(_COMPILING):
            with self._lock:
                if not self._under_way:
                    self._since = time.perf_counter()
                self._under_way += 1

    def end(self, event: str, duration_secs: float | int, **kwargs: str | int) -> None:
        """A stage ends; one whose beginning was before the first call does not count."""
        del duration_secs, kwargs
        if event.startswith(_COMPILING):
            with self._lock:
                if self._under_way == 1:
                    self._done += time.perf_counter() - self._since
                self._under_way = max(0, self._under_way - 1)

    def seconds(self) -> float:
        """Those so far, of stages that are under way too."""
        with self._lock:
            running = time.perf_counter() - self._since if self._under_way else 0.0
            return self._done + running


_compiling: _Compiling | None = None
