"""What is made and written for a run is unmade, or written whole, wherever a signal comes."""

import itertools
import json
import os
import pathlib
import signal
import sys
import types
from collections.abc import Callable, Iterator

import pytest
from further import further
from test_eval_records import INDICES, lines, record

from star_jax import interrupts
from star_jax.runs import places, records


@pytest.fixture(name="_raised")
def _raised_fixture() -> Iterator[None]:
    """As in `interrupts.raised`, which would end this process."""
    before = [(number, signal.getsignal(number)) for number in (*interrupts.SIGNALS, 14)]
    interrupts.catch()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before:
        signal.signal(number, handler)


def at_every_line(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> Iterator[tuple[int, bool]]:
    """Does it again and again, with a signal at its first line, its second, and so on to the last.

    Lines are those of our modules, and of contextlib. Gives their number, and whether it raised.
    """
    for last in itertools.count(1):
        now = interrupts._Now()
        now.raises = True
        monkeypatch.setattr(interrupts, "_now", now)
        count, raised = 0, False

        def trace(frame: types.FrameType, event: str, arg: object, last: int = last) -> Callable:
            nonlocal count
            name = pathlib.Path(frame.f_code.co_filename).name
            ours = name in ("records.py", "places.py", "interrupts.py", "contextlib.py")
            if ours and event in ("call", "line"):  # Python runs no handler as a function returns
                count += 1
                if count == last:
                    signal.raise_signal(signal.SIGTERM)
            return trace

        try:
            try:
                sys.settrace(trace)
                act()
            except interrupts.Interrupt:
                raised = True
            finally:
                sys.settrace(None)
                signal.setitimer(signal.ITIMER_REAL, 0)
        except interrupts.Interrupt:  # on a busy machine it comes again before the timer is stopped
            raised = True
            signal.setitimer(signal.ITIMER_REAL, 0)
        if now.came is None:
            return
        yield last, raised


@pytest.mark.parametrize(
    "place",
    [
        places.output_file,
        *further(places.writable, places.output_directory),
    ],
)
@pytest.mark.usefixtures("_raised")
def test_places_that_a_signal_leaves_are_unmade(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: Callable
) -> None:
    def act() -> None:
        with place(str(tmp_path / "a" / "b")):
            pass

    times = 0
    for line, raised in at_every_line(monkeypatch, act):
        assert os.listdir(tmp_path) == [], line
        times += raised
    assert times > 50


@pytest.mark.long
@pytest.mark.usefixtures("_raised")
def test_a_first_batch_and_its_manifest_are_written_together(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, path = tmp_path / "manifest.json", tmp_path / "a" / "r.jsonl"

    def act() -> None:
        records.append_first(
            str(path),
            [record(i) for i in INDICES],
            manifest=str(manifest),
            settings={},
            num_samples=5,
        )

    found = set()
    for line, raised in at_every_line(monkeypatch, act):
        names = sorted(p.name for p in tmp_path.rglob("*"))
        assert names in ([], ["a", "manifest.json", "r.jsonl"]), line
        if names:
            assert path.read_bytes() == lines(INDICES), line
            assert json.loads(manifest.read_text())["num_samples"] == 5
            path.unlink()
            path.parent.rmdir()
            manifest.unlink()
        found.add((raised, bool(names)))
    assert {(True, False), (True, True)} <= found
