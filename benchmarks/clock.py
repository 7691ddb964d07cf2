"""How long work takes on a device: the host's clock around a queue that does not run dry.

JAX hands out neither its stream nor events on it, and events of PyTorch see only PyTorch's own
stream. So both are timed alike: as many passes as take 20 ms are enqueued back to back, and the
host waits for the last. While one pass runs the next ones are already queued, so that what the
host does meanwhile costs nothing; what is left in is one launch and one wait a sample of at least
20 ms. That holds while the host launches a pass in less time than the device takes for it: so the
first launch of every sample, for which the device has nothing else to do, is timed by itself.

A pass is several calls, launched together: by one compiled program of JAX, by one CUDA graph of
PyTorch. Otherwise it is Python that would be timed where a call takes 10 us.
"""

import dataclasses
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from star_jax.attention import Partial

LEAST_SECONDS = 0.02  # of a sample
HOST_SHARE = 0.5  # of a pass: where launching takes more than this, the host may set the pace
COUNT, LEAST_COUNT = 10, 3  # samples
MOST_SECONDS = 1.5  # of all samples together, once there are LEAST_COUNT


@dataclasses.dataclass(frozen=True)
class Pass:
    """Something to time. `launch` returns before the device is done, `wait` when it is."""

    launch: Callable[[], Any]
    wait: Callable[[Any], None]
    calls: int  # of what is timed, in one pass
    partial: Callable[[Any, int], Partial] | None = None  # of attention: call i's, once it is done


class Samples:
    """What a call of one pass takes, in seconds, again and again."""

    def __init__(self, timed: Pass):
        self._pass = timed
        _run(timed, 1)  # what is done once is done now
        seconds, _ = _run(timed, 1)
        self._passes = max(1, math.ceil(LEAST_SECONDS / seconds))
        enough = int(MOST_SECONDS / (seconds * self._passes))
        self._left = min(max(enough, LEAST_COUNT), COUNT)
        self.seconds: list[float] = []
        self.dispatches: list[float] = []  # seconds of launching a pass

    def take(self) -> bool:
        """Takes one more, if there are not enough."""
        if not self._left:
            return False
        self._left -= 1
        seconds, dispatch = _run(self._pass, self._passes)
        self.seconds.append(seconds / (self._passes * self._pass.calls))
        self.dispatches.append(dispatch)
        return True

    def found(self) -> dict[str, Any]:
        """Seconds of a call and of launching a pass; and whether those may be the host's."""
        seconds, dispatch = spread(self.seconds), statistics.median(self.dispatches)
        bound = dispatch > HOST_SHARE * seconds["median"] * self._pass.calls
        return {"seconds": seconds, "dispatch_seconds": dispatch, "host_bound": bound}


def time_in_turns(
    passes: Mapping[str, Pass],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What was found of each (`Samples.found`), and why nothing was.

    They take turns, sample by sample. So a clock that the chip lowers as it warms up is lowered for
    all.
    """
    samples: dict[str, Samples] = {}
    reasons: dict[str, str] = {}

    def guard(name: str, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as e:
            reasons[name] = reason(e)
            return None

    for name, timed in passes.items():
        if (found := guard(name, functools.partial(Samples, timed))) is not None:
            samples[name] = found
    going = dict(samples)
    while going:
        going = {name: one for name, one in going.items() if guard(name, one.take)}
    done = {name: s.found() for name, s in samples.items() if name not in reasons}
    return done, reasons


def median_seconds(timed: Pass) -> float:
    """What a call takes, the median of many."""
    samples = Samples(timed)
    while samples.take():
        pass
    return statistics.median(samples.seconds)


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def reason(e: BaseException) -> str:
    """What to write down instead of a number, in a line."""
    text = next(iter(str(e).strip().splitlines()), "")
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "out of memory"
    return f"{type(e).__name__}: {text[:300]}"


_STARTED = time.perf_counter()


def elapsed() -> float:
    """Seconds since the start."""
    return time.perf_counter() - _STARTED


def say(text: str) -> None:
    """Progress."""
    print(f"[{elapsed():6.1f} s] {text}", file=sys.stderr, flush=True)


def _run(timed: Pass, passes: int) -> tuple[float, float]:
    """Seconds of all, and of launching the first."""
    start = time.perf_counter()
    last = timed.launch()
    dispatched = time.perf_counter()
    for _ in range(passes - 1):
        # One result is held, not all: its memory serves the pass after the next one.
        last = timed.launch()
    timed.wait(last)
    return time.perf_counter() - start, dispatched - start
