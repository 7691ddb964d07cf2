"""Seconds with compilation apart, and the line that tells how far a run is."""

import io
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from star_jax.runs import progress, timing


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


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Whenever JAX looks at the wall clock, somebody has just set it by an hour."""
    wall = [1e9]

    def look() -> float:
        wall[0] += jump
        return wall[0]

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        for i in range(40):
            x = jnp.cos(x + jump) @ x + i
        return x

    x = jnp.ones((8, 8)).block_until_ready()
    timing.compiled()
    monkeypatch.setattr(time, "time", look)
    start = time.perf_counter()
    with timing.Stopwatch() as first:
        program(x).block_until_ready()
    elapsed = time.perf_counter() - start
    with timing.Stopwatch() as second:
        program(x).block_until_ready()
    assert wall[0] != 1e9  # JAX did look
    assert 5 * second.seconds < first.compile_seconds <= elapsed
    assert first.seconds < first.compile_seconds
    assert second.compile_seconds == 0


def test_stages_that_overlap_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stage, other = "/jax/core/compile/jaxpr_trace_duration", "/jax/something/else"
    clock = timing._Compiling()
    moments: list[tuple[int, Any, str]] = [
        (0, clock.end, stage),  # it had begun before anybody listened
        (1, clock.begin, stage),
        (2, clock.begin, stage),
        (3, clock.end, stage),
        (4, clock.begin, other),
        (5, clock.end, stage),
        (6, clock.end, other),
        (7, clock.begin, stage),
        (9, clock.end, stage),
    ]
    for when, report, event in moments:
        now[0] = float(when)
        report(event, 1e9, fun_name="f")
        if when == 3:
            assert clock.seconds() == 2  # the outer one is under way
    assert clock.seconds() == (5 - 1) + (9 - 7)


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


def test_a_long_batch_shows_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = progress.Progress(2)
    bar.beat()  # nothing has begun
    bar.begin("encoding 5 tokens")
    for _ in range(25):
        now[0] += 1
        bar.beat()
    bar.advance(1, "one of 2")
    now[0] += 40
    bar.beat()
    bar.begin("answering")
    bar.beat()
    assert stream.getvalue().splitlines() == [
        "  0%   encoding 5 tokens for 10s",
        "  0%   encoding 5 tokens for 20s",
        " 50% one of 2  answering for 0s",
    ]


def test_the_heart_stops_beating(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    with progress.Progress(1):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


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
