"""Files that survive being killed: records in batches, the manifest of a run, atomic writes.

A record file only grows, and a record that is whole in it stays. Batches are fixed by the
samples' order, so a run that goes on gives exactly the answers that are missing, and ends with
the same records as one that was never stopped.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from star_jax import interrupts, json_files
from star_jax.json_files import shown
from star_jax.runs import places
from star_jax.runs.places import check_regular

Record = Mapping[str, Any]
_NUMBERS = ("n_context_tokens", "n_generated", "time_prefill", "time_decode", "time_compile")
_MOST = 2**53  # of counts and seconds


def missing(done: int, count: int, size: int) -> Iterator[range]:
    """The positions of the samples that have no record yet, batch after batch.

    Args:
      done: samples that have one, from the first.
      count: of all samples.
      size: of a batch. The last batch may be short, and so may the first of those that are
        missing, where a run was killed or has been given more samples.
    """
    for start in range(done - done % size, count, size):
        batch = range(max(start, done), min(start + size, count))
        if batch:
            yield batch


def recover(path: str, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The records of a file; a torn last line, which a killed run leaves, is cut off.

    Args:
      path: the record file; it need not exist.
      indices: the index of each sample, in order.

    Raises:
      ValueError: a whole line is not the record that belongs there; or it is no regular file.
    """
    check_regular(path)
    if not os.path.exists(path):
        return []
    found: list[dict[str, Any]] = []
    end = 0  # in bytes, of the last record
    with open(path, "rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                break
            found.append(_parse(path, len(found), text, indices))
            end += len(text)
    if os.path.getsize(path) > end:
        os.truncate(path, end)
    return found


def _parse(path: str, position: int, text: bytes, indices: Sequence[int]) -> dict[str, Any]:
    where, hint = f"{path}:{position + 1}", "move the file away to start again"
    try:
        record = json.loads(text)
        index, score = record["index"], record["score"]
        numbers = [record[name] for name in _NUMBERS]
        is_sound = all(type(number) in (int, float) and 0 <= number < _MOST for number in numbers)
        is_sound = is_sound and (score is None or (type(score) in (int, float) and 0 <= score <= 1))
        is_sound = is_sound and _is_likelihood(record.get("logprob"), record.get("n_scored", 0))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as e:
        raise ValueError(f"{where}: not a record; {hint}") from e
    if not is_sound:
        raise ValueError(
            f"{where}: not a record: score, counts and seconds are numbers, from 0, a score is at "
            f"most 1, and a log-probability at most 0; {hint}"
        )
    if position >= len(indices):
        raise ValueError(f"{where}: there are only {len(indices)} samples; {hint}")
    if index != indices[position]:
        raise ValueError(f"{where}: {index=} where {indices[position]} belongs; {hint}")
    return record


def _is_likelihood(logprob: Any, n_scored: Any) -> bool:
    """Whether these can be of a text, or are of none: a sum of log-probabilities, of so many."""
    if logprob is None:
        return type(n_scored) is int and n_scored == 0
    is_number = type(logprob) in (int, float) and type(n_scored) is int
    return is_number and -_MOST < logprob <= 0 and 0 < n_scored < _MOST


def append(path: str, records: Sequence[Record]) -> None:
    """Adds a batch, and returns when it is on disk. Where that fails, nothing is added."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    check_regular(path)
    with interrupts.held(), places.writable(os.path.dirname(path) or "."):
        before = os.path.getsize(path) if os.path.exists(path) else None
        try:
            with open(path, "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            with contextlib.suppress(OSError):
                os.unlink(path) if before is None else os.truncate(path, before)
            raise _named(e, path) from e


def append_first(
    path: str,
    records: Sequence[Record],
    *,
    manifest: str,
    settings: Mapping[str, Any],
    num_samples: int,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes the manifest, and adds a run's first batch; fails with both or with neither."""
    with interrupts.held():
        before = pathlib.Path(manifest).read_bytes() if os.path.exists(manifest) else None
        write_manifest(manifest, settings, num_samples=num_samples, about=about)
        try:
            append(path, records)
        except OSError:
            if before is None:
                os.unlink(manifest)
            else:
                write_atomically(manifest, before)
            raise


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file that a run has finished."""
    with open(path, "rb") as file:
        return [json.loads(text) for text in file]


def part(path: str) -> str:
    """Where `write_atomically` begins."""
    return f"{path}.part"


def write_atomically(path: str, content: str | bytes) -> None:
    """Writes a file as a whole or not at all; a text in UTF-8, its newlines as they are."""
    new = part(path)
    for each in (path, new):
        check_regular(each)
    with interrupts.held():
        try:
            with open(new, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError as e:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise _named(e, path) from e


def _named(e: OSError, path: str) -> OSError:
    """The error with its path: that of a write, to a full disk say, has none."""
    return OSError(e.errno, f"cannot write: {e.strerror or e}", path)


def check_manifest(path: str, settings: Mapping[str, Any], *, num_samples: int) -> None:
    """Refuses to go on where a run with other settings has begun.

    More samples than before are allowed: those that are there stay as they are.

    Raises:
      ValueError: names the settings that differ.
    """
    check_regular(path)
    if not os.path.exists(path):
        return
    try:
        manifest = json_files.read(path)
        before, count = manifest["settings"], manifest["num_samples"]
        if not isinstance(before, dict) or type(count) is not int:
            raise TypeError(f"{type(before)=}, {type(count)=}")
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: not a manifest; use another place for the output") from e
    settings = json.loads(json.dumps(settings))
    differ = [
        f"{name[:99]} was {shown(before.get(name))} and is {shown(settings.get(name))}"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if num_samples < count:
        differ.append(f"num_samples was {count} and is {num_samples}, and it can only grow")
    if differ:
        raise ValueError(
            f"{path} is of a run with other settings: {'; '.join(differ)}. "
            "Use another place for the output, or the same settings"
        )


def begun_with(path: str, setting: str) -> Any:
    """A setting of the run that has begun here; None without one. `check_manifest` finds faults."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        check_regular(path)
        return json_files.read(path)["settings"].get(setting)
    return None


def write_manifest(
    path: str,
    settings: Mapping[str, Any],
    *,
    num_samples: int,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes down the settings that the results depend on, and what else there is to say."""
    manifest = {"num_samples": num_samples, "settings": settings, **(about or {})}
    write_atomically(path, json.dumps(manifest, indent=2) + "\n")
