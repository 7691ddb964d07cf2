"""One line that says how far a run is: a bar on a terminal, now and then a line elsewhere."""

import shutil
import sys
import threading
import time

from star_jax.printable import printable
from star_jax.runs import timing
from star_jax.runtime import processes

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows on stderr the share of work done, what is at hand, and the time that is left.

    As a context manager it also shows, while nothing is done, how long that has been so.

    total: work that is to be done now, in any unit that is proportional to time.
    """

    def __init__(self, total: float | int):
        self._total = total
        self._done = 0.0
        self._text = ""
        self._doing = ""
        self._shown = self._since = time.monotonic()
        self._start = self._running()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._beat = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> "Progress":
        self._beat.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._beat.join()

    def begin(self, doing: str) -> None:
        """Says what is going on from now on; it is shown if it takes long."""
        self._doing, self._since = doing, time.monotonic()

    def advance(self, work: float | int, text: str) -> None:
        """Adds work that has been done; `text` says what, and the score so far."""
        with self._lock:
            self._done, self._text, self._doing = self._done + work, text, ""
            is_last = self._done >= self._total * (1 - 1e-9)
            per_work = (self._running() - self._start) / self._done
            left = per_work * (self._total - self._done)
            self._show(f"ETA {duration(left)}", is_last=is_last)

    def _beats(self) -> None:
        while not self._ended.wait(1.0):
            self.beat()

    def beat(self) -> None:
        """Shows what is going on, if nothing else has been shown for a while."""
        with self._lock:
            if self._doing:
                self._show(f"{self._doing} for {duration(time.monotonic() - self._since)}")

    def _show(self, what: str, *, is_last: bool = False) -> None:
        if not processes.is_first():
            return
        now = time.monotonic()
        line = f"{self._done / self._total:4.0%} {printable(self._text)}  {printable(what)}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            end = "\n" if is_last else ""
            print(f"\r{line[:width]:<{width}}", end=end, file=sys.stderr, flush=True)
        elif is_last or now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            print(line, file=sys.stderr, flush=True)

    def _running(self) -> float:
        """Seconds without compiling, which comes early and says nothing about what is left."""
        return time.monotonic() - timing.compiled()


def duration(seconds: float | int) -> str:
    """Like 41s, 3m07s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
