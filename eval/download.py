"""Fetches the files that evaluation suites need and that do not come with the package.

DIR/PaulGrahamEssays.json, DIR/squad.json, DIR/hotpotqa.json   for RULER: data.sources=DIR
DIR/babilong/<length>/<task>-....parquet                       for BABILong: data.path=DIR/babilong
DIR/infinitebench/<task>.jsonl                                 for InfiniteBench, likewise

The essays are those of the hub's data set baber/paul_graham_essays, which lm-evaluation-harness
reads for RULER, too; RULER's own script gathers them from some two hundred pages. A file that is
there is kept. One that is being fetched ends in `.part`, or lies in the hub's `.cache`.
"""

import contextlib
import fnmatch
import functools
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence

from star_jax.eval.lists import check_known
from star_jax.printable import printable
from star_jax.runs import hashes, places, records
from star_jax.runs.terminal import say

SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"
_HOTPOTQA = ("namlh2004/hotpotqa", "hotpot_dev_distractor_v1.json")
_ESSAYS = ("baber/paul_graham_essays", "essays.parquet")
_BABILONG = ("RMT-team/babilong-1k-samples", re.compile(r"\d+[kM]/qa\d+-\d+-of-\d+\.parquet"))
_INFINITEBENCH = ("xinrongzhang2022/InfiniteBench", re.compile(r"[a-z_]+\.jsonl"))
_PIECE = 2**20  # bytes
_SECONDS = 60.0  # without a byte

Wanted = dict[str, Callable[[str], None]]  # what makes the file of each name


def download(names: Iterable[str], directory: str, *, only: Sequence[str] = ()) -> None:
    """Fetches the files of suites into a directory.

    names: of `SUITES`. only: patterns, like `16k/*` or `passkey*`; of a suite's files those are
      fetched that match one; all, if there is none.

    Raises:
      ValueError: no such suite, nothing matches, or a file is not what it should be.
      OSError: a file cannot be fetched, or written.
    """
    names = tuple(names)
    for name in names:
        check_known("--download", name, tuple(SUITES))
    with places.output_directory(directory):
        for name in names:
            folder = directory if name == "ruler" else os.path.join(directory, name)
            wanted = SUITES[name](folder)
            chosen = [
                file
                for file in wanted
                if not only or any(fnmatch.fnmatchcase(file, pattern) for pattern in only)
            ]
            if not chosen:
                raise ValueError(f"{','.join(only)!r} matches none of {', '.join(sorted(wanted))}")
            for file in chosen:
                _get(os.path.join(folder, file), wanted[file])
            field = "data.sources" if name == "ruler" else f"data.suite={name}, data.path"
            say(f"{name}: {field}={folder}")


def _get(path: str, make: Callable[[str], None]) -> None:
    places.check_regular(path)
    is_new = not os.path.exists(path)
    if is_new:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        make(path)
    is_there = "" if is_new else " (it was there)"
    say(f"{path}: {os.path.getsize(path)} bytes, sha256 {hashes.of_file(path)}{is_there}")


def _ruler(folder: str) -> Wanted:
    def essays(path: str) -> None:
        try:
            import pyarrow.parquet  # optional, and slow to import
        except ImportError as e:
            raise ValueError(
                f"the essays are read by the package pyarrow ({e}): pip install 'star-jax[suites]'"
            ) from e
        file = from_hub(*_ESSAYS, folder)
        texts = pyarrow.parquet.read_table(file, columns=["text"]).column("text").to_pylist()
        records.write_atomically(path, json.dumps({"text": " ".join(texts)}))
        os.unlink(file)

    def hotpotqa(path: str) -> None:
        os.replace(from_hub(*_HOTPOTQA, folder), path)

    return {
        "squad.json": lambda path: from_url(SQUAD, path),
        "hotpotqa.json": hotpotqa,
        "PaulGrahamEssays.json": essays,
    }


def _of_hub(source: tuple[str, re.Pattern[str]], folder: str) -> Wanted:
    data_set, pattern = source
    names = filter(pattern.fullmatch, _listed(data_set))
    return {name: functools.partial(_fetch, data_set, name, folder) for name in names}


def _fetch(data_set: str, name: str, folder: str, path: str) -> None:
    """`path` is where it comes by its name."""
    del path
    from_hub(data_set, name, folder)


SUITES: dict[str, Callable[[str], Wanted]] = {
    "ruler": _ruler,
    "babilong": lambda folder: _of_hub(_BABILONG, folder),
    "infinitebench": lambda folder: _of_hub(_INFINITEBENCH, folder),
}


def from_hub(data_set: str, name: str, folder: str) -> str:
    """Fetches a file of a data set of the hub into a folder, as a whole or not at all; its path.

    Raises:
      OSError: it cannot be fetched.
    """
    import huggingface_hub  # slow to import

    with _named(f"{name} of the data set {data_set}"):
        return huggingface_hub.hf_hub_download(
            data_set, name, repo_type="dataset", local_dir=folder
        )


def _listed(data_set: str) -> list[str]:
    import huggingface_hub  # slow to import

    with _named(f"the data set {data_set}"):
        return sorted(huggingface_hub.list_repo_files(data_set, repo_type="dataset"))


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:  # of many kinds: no network, no such file, no permission
        reason = printable(next(iter(str(e).splitlines()), "")) or type(e).__name__
        raise OSError(f"{what} could not be fetched from the hub: {reason}") from e


def from_url(url: str, path: str) -> None:
    """Fetches a JSON file, as a whole or not at all. What a stop has left is gone on with.

    Raises:
      OSError: it cannot be fetched. ValueError: it is no JSON.
    """
    part = records.part(path)
    places.check_regular(part)
    try:
        done = _append(url, part)
        if not done:
            os.unlink(part)  # it was of another file, or whole
            done = _append(url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as e:
        reason = printable(str(getattr(e, "reason", None) or e or type(e).__name__))
        raise OSError(f"{url} could not be fetched: {reason}") from e
    try:
        with open(part, "rb") as file:
            json.load(file)
    except (ValueError, RecursionError) as e:
        os.unlink(part)
        raise ValueError(f"{url} gave no JSON ({printable(str(e))})") from e
    os.replace(part, path)


def _append(url: str, part: str) -> bool:
    """Fetches what is missing of a file; False if what is there is no part of it, or all of it."""
    there = os.path.getsize(part) if os.path.exists(part) else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as e:
        if there and e.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return False
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        with open(part, "ab" if goes_on else "wb") as file:
            left = response.headers.get("Content-Length")
            for piece in iter(lambda: response.read(_PIECE), b""):
                file.write(piece)
                left = None if left is None else int(left) - len(piece)
            file.flush()
            os.fsync(file.fileno())
        if left:
            raise TimeoutError(f"it ended {left} bytes too early; the same command goes on")
    return True
