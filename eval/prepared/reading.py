"""Reads prepared questions in the place of drawing them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence

from star_jax.eval.prepared import lines, manifest
from star_jax.eval.prepared.manifest import Entry
from star_jax.eval.settings import EvalConfig
from star_jax.eval.suites import Cell
from star_jax.runs.places import check_regular
from star_jax.runs.sample import Sample
from star_jax.runs.terminal import say
from star_jax.text.tokenizer import Tokenizer

_MORE = "python -m star_jax.prepare, with the same settings, adds them"


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of a file that is whole, each read when it is asked for."""

    path: str
    ends: Sequence[int]  # in bytes, of each line

    def __getitem__(self, position: int) -> Sample:
        start = self.ends[position - 1] if position else 0
        with open(self.path, "rb") as file:
            file.seek(start)
            text = file.read(self.ends[position] - start)
        try:
            return lines.parse(text)
        except ValueError as e:
            raise ValueError(f"{self.path}:{position + 1}: {e}") from e


def attached(cells: Iterable[Cell], config: EvalConfig, tokenizer: Tokenizer) -> list[Cell]:
    """The cells; their questions are read from data.prepared, if there are any.

    Files are read once, as a whole, to see that they are what was written. The first question
    of each cell is also drawn: it tells whether this version would draw the same.

    Raises:
      ValueError: what is there does not fit the configuration, or was damaged.
    """
    directory = config.data.prepared
    if not directory:
        return list(cells)
    if not manifest.is_begun(directory):
        say(f"data.prepared={directory!r} has no questions yet: they are drawn, and not kept")
        return list(cells)
    there = manifest.read(directory)
    return [_attached(cell, directory, there, config, tokenizer) for cell in cells]


def _attached(
    cell: Cell,
    directory: str,
    there: manifest.Manifest,
    config: EvalConfig,
    tokenizer: Tokenizer,
) -> Cell:
    name = manifest.file_of(cell)
    entry = there.get(name)
    if entry is None:
        raise ValueError(f"data.prepared={directory!r} has no {name}: {_MORE}")
    manifest.check_fits(directory, name, entry, manifest.settings_of(cell, config, tokenizer))
    if not entry.is_whole or entry.num_samples < len(cell.indices):
        count = entry.num_samples if entry.is_whole else "not all"
        raise ValueError(
            f"{os.path.join(directory, name)} has {count} of the {len(cell.indices)} questions "
            f"that are asked for: {_MORE}"
        )
    found = Lines(os.path.join(directory, name), check(directory, name, entry))

    def draw(position: int) -> Sample:
        sample = found[position]
        if sample.index != cell.indices[position]:
            raise ValueError(
                f"{found.path}:{position + 1}: index={sample.index} where "
                f"{cell.indices[position]} belongs"
            )
        return sample

    check_drawn(found.path, 0, draw(0), cell)
    return dataclasses.replace(cell, draw=draw)


def check(directory: str, name: str, entry: Entry) -> list[int]:
    """Reads a file that should be whole; where its lines end, in bytes.

    Raises:
      FileNotFoundError: it is not there. ValueError: it is not what was written.
    """
    path = os.path.join(directory, name)
    check_regular(path)
    digest, ends, end = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        for text in file:
            digest.update(text)
            end += len(text)
            ends.append(end)
    if (digest.hexdigest(), len(ends)) != (entry.sha256, entry.num_samples):
        raise ValueError(
            f"{path} is not what was prepared: its {end} bytes in {len(ends)} lines have another "
            f"hash than in {manifest.path_of(directory)}; take it away and prepare it again"
        )
    return ends


def check_drawn(path: str, position: int, sample: Sample, cell: Cell) -> None:
    """Draws a question that has been prepared, and compares the two.

    Raises:
      ValueError: they differ.
    """
    if lines.fields(sample) != lines.fields(cell.draw(position)):
        raise ValueError(
            f"{path}:{position + 1} is not the question that is drawn today: another version "
            "prepared it. Use another directory"
        )
