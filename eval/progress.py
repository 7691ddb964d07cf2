"""One line that says how far a run is: a bar on a terminal, now and then a line elsewhere."""

import shutil
import sys
import time
from typing import TextIO

from star_jax.eval import timing

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the share of work done, what is at hand, and the time that is left.

    total: work that is to be done now, in any unit that is proportional to time.
    stream: where to; stderr if None.
    """

    def __init__(self, total: float, *, stream: TextIO | None = None):
        self._total = total
        self._done = 0.0
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._shown = time.monotonic()
        self._start = self._running()

    def advance(self, work: float, text: str) -> None:
        """Adds work that has been done; `text` says what, and the score so far."""
        self._done += work
        is_last = self._done >= self._total * (1 - 1e-9)
        now = time.monotonic()
        per_work = (self._running() - self._start) / self._done
        left = per_work * (self._total - self._done)
        line = f"{self._done / self._total:4.0%} {text}  ETA {duration(left)}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            end = "\n" if is_last else ""
            print(f"\r{line[:width]:<{width}}", end=end, file=self._stream, flush=True)
        elif is_last or now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            print(line, file=self._stream, flush=True)

    def _running(self) -> float:
        """Seconds without compiling, which comes early and says nothing about what is left."""
        return time.monotonic() - timing.compiled()


def duration(seconds: float) -> str:
    """Like 41s, 3m07s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
