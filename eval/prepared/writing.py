"""Draws all questions of a configuration, and writes them where `reading` finds them.

A cell's file is written beside its name, line by line, and gets its name when it is whole; then
the manifest says so. What is there after a kill is one or the other, and is gone on with.
"""

import dataclasses
import os
import time
from collections.abc import Sequence

from star_jax import interrupts
from star_jax.eval.prepared import lines, manifest, reading
from star_jax.eval.prepared.manifest import Entry, Manifest
from star_jax.eval.settings import EvalConfig
from star_jax.eval.suites import Cell
from star_jax.runs import hashes, places, records
from star_jax.runs.progress import Progress
from star_jax.runs.terminal import say
from star_jax.text.tokenizer import Tokenizer

_SECONDS_BETWEEN_WRITES = 1.0
_MOST_HELD = 2**25  # characters of questions that are not written yet


@dataclasses.dataclass
class _Job:
    """A cell that is to be written, or to get more questions."""

    cell: Cell
    name: str  # of its file
    entry: Entry  # as long as its file is not whole
    done: int = 0

    @property
    def left(self) -> int:
        return len(self.cell.indices) - self.done

    @property
    def work(self) -> float:
        """What one question costs, in any unit: it grows with the length."""
        return float(self.cell.length or 1)


def write(directory: str, cells: Sequence[Cell], config: EvalConfig, tokenizer: Tokenizer) -> None:
    """Writes what is not there yet of the cells' questions.

    Raises:
      ValueError: what is there was made with other settings, or damaged; another process writes.
    """
    with places.output_directory(directory):
        if manifest.is_begun(directory) and not os.path.exists(manifest.path_of(directory)):
            raise ValueError(
                f"{directory} has files, and no manifest.json of prepared questions: "
                "use another directory"
            )
        there = manifest.read(directory)
        jobs = _jobs(directory, cells, there, config, tokenizer)
        if not jobs:
            say(f"{directory} has all the questions; there is nothing to do")
            return
        for job in jobs:
            job.cell.draw(0)  # a length that holds no question is told now
            job.done = _recover(directory, job, is_known=job.name in there)
        count = sum(job.left for job in jobs)
        say(f"{count} questions to draw for {len(jobs)} of {len(cells)} files in {directory}")
        with Progress(sum(job.left * job.work for job in jobs) or 1) as progress:
            rate = _Rate()
            for job in jobs:
                _begin(directory, job, there)
                _draw(os.path.join(directory, job.name), job, progress, rate)
                _end(directory, job, there)


def _jobs(
    directory: str,
    cells: Sequence[Cell],
    there: Manifest,
    config: EvalConfig,
    tokenizer: Tokenizer,
) -> list[_Job]:
    """What is to be done; nothing has been written yet."""
    jobs = []
    for cell in cells:
        name = manifest.file_of(cell)
        entry = Entry(manifest.settings_of(cell, config, tokenizer), len(cell.indices))
        if before := there.get(name):
            manifest.check_fits(directory, name, before, entry.settings)
            if before.is_whole and os.path.exists(os.path.join(directory, name)):
                reading.check(directory, name, before)
                if before.num_samples >= len(cell.indices):
                    continue
        jobs.append(_Job(cell, name, entry))
    return jobs


def _recover(directory: str, job: _Job, *, is_known: bool) -> int:
    """How many questions of a cell are there; a torn last line, which a kill leaves, is cut off.

    The last one is drawn once more, and compared.
    """
    path = os.path.join(directory, job.name)
    found = [each for each in (path, records.part(path)) if os.path.lexists(each)]
    if not found:
        return 0
    places.check_regular(found[0])
    if not is_known:
        raise ValueError(f"{found[0]} is there, and {manifest.path_of(directory)} does not know it")
    done, end, last = 0, 0, b""
    with open(found[0], "rb") as file:
        for text in file:
            if not text.endswith(b"\n") or done == len(job.cell.indices):
                break
            done, end, last = done + 1, end + len(text), text
    if done:
        try:
            sample = lines.parse(last)
        except ValueError as e:
            raise ValueError(f"{found[0]}:{done}: {e}; take the file away") from e
        reading.check_drawn(found[0], done - 1, sample, job.cell)
    if os.path.getsize(found[0]) > end:
        os.truncate(found[0], end)
    return done


def _begin(directory: str, job: _Job, there: Manifest) -> None:
    """From now on the cell's file is not whole."""
    path = os.path.join(directory, job.name)
    there[job.name] = job.entry
    manifest.write(directory, there)
    if os.path.exists(path):
        os.replace(path, records.part(path))


def _draw(path: str, job: _Job, progress: Progress, rate: "_Rate") -> None:
    """Draws what is left, and appends it: no more than a second's questions are ever held."""
    held: list[records.Record] = []
    since, characters = time.monotonic(), 0
    for position in range(job.done, len(job.cell.indices)):
        progress.begin(f"drawing {job.name}")
        held.append(lines.fields(job.cell.draw(position)))
        characters += len(held[-1]["input_context"])
        is_last = position + 1 == len(job.cell.indices)
        waited = time.monotonic() - since
        if is_last or waited > _SECONDS_BETWEEN_WRITES or characters > _MOST_HELD:
            records.append(records.part(path), held)
            held, since, characters = [], time.monotonic(), 0
        rate.count += 1
        progress.advance(job.work, f"{job.name} {position + 1}/{len(job.cell.indices)}  {rate}")


def _end(directory: str, job: _Job, there: Manifest) -> None:
    """Now it is whole."""
    path = os.path.join(directory, job.name)
    with interrupts.held():
        os.replace(records.part(path), path)
        there[job.name] = dataclasses.replace(job.entry, sha256=hashes.of_file(path))
        manifest.write(directory, there)


class _Rate:
    """How many questions were drawn in a second, so far."""

    def __init__(self) -> None:
        self.count, self._start = 0, time.monotonic()

    def __str__(self) -> str:
        return f"{self.count / max(1e-9, time.monotonic() - self._start):.1f} samples/s"
