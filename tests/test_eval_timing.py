"""Seconds with compilation apart, and the line that tells how far a run is."""

import io
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from star_jax.eval import progress, timing


def test_compiling_is_apart() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return jnp.sin(x) @ x

    @jax.jit
    def outer(x: jax.Array) -> jax.Array:
        for _ in range(30):
            x = jnp.tanh(inner(x))
        return x

    x = jnp.ones((8, 8)).block_until_ready()
    start = time.perf_counter()
    with timing.Stopwatch() as first:
        outer(x).block_until_ready()
    elapsed = time.perf_counter() - start
    with timing.Stopwatch() as second:
        outer(x).block_until_ready()
    assert second.compile_seconds == 0
    assert first.compile_seconds > 5 * second.seconds
    # Tracing `inner` within `outer` is not counted twice.
    assert first.seconds + first.compile_seconds <= elapsed * 1.001
    assert first.seconds < first.compile_seconds


def test_spans_that_contain_others_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timing.compiled()
    monkeypatch.setattr(timing, "_spans", [])
    event = "/jax/core/compile/jaxpr_trace_duration"
    for start, end in ((1, 2), (3, 5), (0, 6), (7, 8), (7.5, 9)):
        timing._record(event, float(start), float(end), fun_name="f")
    timing._record("/jax/something/else", 10.0, 99.0)
    assert timing.compiled() == 6 + 2


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        bar = progress.Progress(10)
        for i in range(10):
            now[0] += 4
            bar.advance(1, f"step {i}")
        text = stream.getvalue()
        assert text.endswith("\n")
        assert "100% step 9  ETA 0s" in text
        if is_terminal:
            assert text.count("\n") == 1
            assert text.count("\r") == 10
            assert "\r 50% step 4  ETA 20s" in text
        else:
            assert text.splitlines() == [  # at most one in ten seconds, and the last
                " 30% step 2  ETA 28s",
                " 60% step 5  ETA 16s",
                " 90% step 8  ETA 4s",
                "100% step 9  ETA 0s",
            ]


def test_the_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    progress.Progress(2).advance(1, "x" * 50)
    assert len(stream.getvalue()) == 1 + 19


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (7503, "2h05m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


class Device:
    process_index = 0

    def __init__(self, stats: dict[str, int] | None):
        self.stats = stats

    def memory_stats(self) -> dict[str, int] | None:
        return self.stats


@pytest.mark.parametrize("peak", [None, 3 * 2**29])
def test_rates_of_a_run_and_memory_where_devices_tell(peak: int | None) -> None:
    answers: list[dict[str, Any]] = [
        {
            "time_prefill": 2.0,
            "time_decode": 1.0,
            "time_compile": c,
            "n_context_tokens": n,
            "n_generated": 5,
        }
        for c, n in ((8.0, 1000), (0.0, 3000))
    ]
    stats = None if peak is None else {"peak_bytes_in_use": peak}
    assert timing.peak_memory([Device(stats), Device({"bytes_in_use": 1})]) == peak
    line = timing.rates(answers, peak)
    assert line.startswith("prefill 1000 tokens/s, 0.2 s/token, compiling 8.0 s")
    assert ("peak memory of a device 1.50 GiB" in line) is (peak is not None)
