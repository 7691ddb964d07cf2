"""Files that survive being killed: records in batches, the manifest of a run, atomic writes.

A record file only grows, by whole batches. Batches are fixed by the samples' order, so a run
that goes on computes exactly the batches that are not whole in the file, and ends with the
same records as one that was never stopped.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def batches(count: int, size: int) -> list[range]:
    """The positions of `count` samples, in batches of `size`; the last may be short."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def recover(path: str, indices: Sequence[int], size: int) -> list[dict[str, Any]]:
    """The records of a file, in whole batches; what is beyond them is cut off.

    Only a killed run leaves something beyond: a torn line, or part of a batch. And one with
    fewer samples, whose last batch was short.

    Args:
      path: the record file; it need not exist.
      indices: the index of each sample, in order.
      size: of a batch.

    Raises:
      ValueError: a whole line is not the record that belongs there.
    """
    if not os.path.exists(path):
        return []
    found: list[dict[str, Any]] = []
    ends = [0]  # in bytes, after each record
    with open(path, "rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                break
            found.append(_parse(path, len(found), text, indices))
            ends.append(ends[-1] + len(text))
    whole = len(found) if len(found) == len(indices) else len(found) - len(found) % size
    if os.path.getsize(path) > ends[whole]:
        os.truncate(path, ends[whole])
    return found[:whole]


def _parse(path: str, position: int, text: bytes, indices: Sequence[int]) -> dict[str, Any]:
    where, hint = f"{path}:{position + 1}", "move the file away to start again"
    try:
        record = json.loads(text)
        index = record["index"]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{where}: not a record; {hint}") from e
    if position >= len(indices):
        raise ValueError(f"{where}: there are only {len(indices)} samples; {hint}")
    if index != indices[position]:
        raise ValueError(f"{where}: {index=} where {indices[position]} belongs; {hint}")
    return record


def append(path: str, records: Sequence[Record]) -> None:
    """Adds a batch, and returns when it is on disk."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file that a run has finished."""
    with open(path, "rb") as file:
        return [json.loads(text) for text in file]


def write_atomically(path: str, text: str) -> None:
    """Writes a file as a whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def check_manifest(path: str, settings: Mapping[str, Any], *, num_samples: int) -> None:
    """Refuses to go on where a run with other settings has begun.

    More samples than before are allowed: those that are there stay as they are.

    Raises:
      ValueError: names the settings that differ.
    """
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        before, count = manifest["settings"], manifest["num_samples"]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: not a manifest; use another place for the output") from e
    settings = json.loads(json.dumps(settings))
    differ = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
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


def write_manifest(path: str, settings: Mapping[str, Any], *, num_samples: int) -> None:
    """Writes down the settings that the results depend on."""
    manifest = {"num_samples": num_samples, "settings": settings}
    write_atomically(path, json.dumps(manifest, indent=2) + "\n")


@contextlib.contextmanager
def writable(directory: str) -> Iterator[None]:
    """Makes a directory, checks that it can be written to, and unmakes it if it stays empty."""
    made = []
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as e:
            raise OSError(f"cannot make the output directory {directory}: {e.strerror}") from e
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(f"cannot write to the output directory {directory}")
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty: it has become of use
                os.rmdir(path)


@contextlib.contextmanager
def locked(path: str, *, make: bool = False) -> Iterator[None]:
    """Holds a file or directory for this process alone: two runs would mix their records.

    With `make`, a file is made if it is not there, and unmade if it stays empty.
    """
    made = make and not os.path.exists(path)
    file = os.open(path, os.O_RDWR | os.O_CREAT if make else os.O_RDONLY, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ValueError(f"{path}: another run is writing to it; wait for it, or end it") from e
        except OSError:
            pass  # some cluster file systems have no locks; better unguarded than useless there
        yield
    finally:
        if made and not os.fstat(file).st_size:
            os.unlink(path)
        os.close(file)
