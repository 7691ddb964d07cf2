"""The files that RULER needs and does not ship: essays, SQuAD and HotpotQA, found by path.

data.sources/PaulGrahamEssays.json    {"text": ...}; or else essays as .txt, in order of name
data.sources/squad.json               SQuAD 2.0, dev
data.sources/hotpotqa.json            HotpotQA, dev, distractor setting
"""

import contextlib
import dataclasses
import glob
import importlib.resources
import json
import os
from collections.abc import Collection, Iterator
from typing import Any

from star_jax.eval.ruler.essays import Essays
from star_jax.eval.ruler.questions import Questions, hotpotqa, squad
from star_jax.json_files import shown
from star_jax.printable import printable
from star_jax.runs import hashes
from star_jax.runs.places import check_regular
from star_jax.runs.terminal import say

SUBSTITUTE = "substitute"
ESSAYS, SQUAD, HOTPOTQA = "PaulGrahamEssays.json", "squad.json", "hotpotqa.json"
URLS = {
    ESSAYS: "https://paulgraham.com/articles.html",
    SQUAD: "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    HOTPOTQA: (
        "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/main/"
        "hotpot_dev_distractor_v1.json"
    ),
}
NEEDED = {
    **dict.fromkeys(
        ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery"),
        ESSAYS,
    ),
    "qa_1": SQUAD,
    "qa_2": HOTPOTQA,
}


@dataclasses.dataclass(frozen=True)
class Sources:
    """What the files hold; None where no task needs them."""

    essays: Essays | None = None
    squad: Questions | None = None
    hotpotqa: Questions | None = None


def read(directory: str, haystack: str, tasks: Collection[str], *, samples: int = 0) -> Sources:
    """The files that these tasks need.

    directory: of the files. haystack: a file of essays, .json or .txt, in place of the
      directory's; or SUBSTITUTE, prose that comes with the package; empty: neither. samples: how
      many questions a file must have.

    Raises:
      ValueError, OSError: a file is not there, or not what it should be; in one line.
    """
    paths = {name: _paths(name, directory, haystack, tasks) for name in needed(tasks)}
    found: dict[str, Any] = {}
    for name, build in ((SQUAD, squad), (HOTPOTQA, hotpotqa)):
        if name in paths:
            (path,) = paths[name]
            with _named(path):
                made = build(_json(path))
                if len(made.questions) < samples:
                    raise ValueError(
                        f"it has {len(made.questions)} questions with an answer, and {samples} are "
                        "asked for: lower data.num_samples"
                    )
            found[name] = made
    if ESSAYS in paths:
        if not haystack and paths[ESSAYS][0].endswith(".txt"):
            names = ", ".join(map(os.path.basename, paths[ESSAYS][:9]))
            say(f"{len(paths[ESSAYS])} texts in {directory} are the essays: {names}")
        found[ESSAYS] = Essays("\n".join(map(_prose, paths[ESSAYS])))
    return Sources(found.get(ESSAYS), found.get(SQUAD), found.get(HOTPOTQA))


def hashes_of(directory: str, haystack: str, tasks: Collection[str]) -> dict[str, str]:
    """The SHA-256 of the files that these tasks need, by field and name; SUBSTITUTE is itself."""
    found = {}
    for name in needed(tasks):
        if name == ESSAYS and haystack == SUBSTITUTE:
            found["data.haystack"] = SUBSTITUTE
            continue
        for path in _paths(name, directory, haystack, tasks):
            field = f"data.sources.{os.path.basename(path)}"
            if name == ESSAYS and haystack:
                field = "data.haystack"
            found[field] = hashes.of_file(path)
    return found


def label(task: str, haystack: str) -> str:
    """A task's name in results: with a substitute for its essays it is another one."""
    return (
        f"{task}[{SUBSTITUTE}]" if haystack == SUBSTITUTE and NEEDED.get(task) == ESSAYS else task
    )


def needed(tasks: Collection[str]) -> list[str]:
    """The names of the files that tasks need."""
    return sorted({NEEDED[task] for task in tasks if task in NEEDED})


def _paths(name: str, directory: str, haystack: str, tasks: Collection[str]) -> list[str]:
    if name == ESSAYS and haystack == SUBSTITUTE:
        return [str(importlib.resources.files(__package__) / "constitution.txt")]
    if name == ESSAYS and haystack:
        return [_there(haystack, f"data.haystack={haystack!r}: there is no such file")]
    users = ", ".join(task for task in NEEDED if NEEDED[task] == name and task in tasks)
    where = directory or "DIR"
    how = (
        f"get it with `python -m star_jax.prepare --download --sources={where}` (from "
        f"{URLS[name]}), and give its directory as data.sources"
    )
    if name == ESSAYS:
        how += f"; or give prose of your own as data.haystack, or data.haystack={SUBSTITUTE}"
    if not directory:
        raise ValueError(f"data.sources is empty, and {name} must be there for {users}: {how}")
    path = os.path.join(directory, name)
    texts = sorted(glob.glob(os.path.join(glob.escape(directory), "*.txt")))
    if name == ESSAYS and texts and not os.path.lexists(path):
        return texts  # a README would be one, too: `read` says which
    return [_there(path, f"there is no {path}, which must be there for {users}: {how}")]


def _there(path: str, otherwise: str) -> str:
    check_regular(path)
    if not os.path.exists(path):
        raise FileNotFoundError(printable(otherwise))
    return path


def _json(path: str) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"not JSON, torn maybe ({printable(str(e))})") from e


def _prose(path: str) -> str:
    """The text of a file of essays, which has words.

    Raises:
      ValueError: names the file, and what is wrong.
    """
    with _named(path):
        text = _json(path) if path.endswith(".json") else _text(path)
        if path.endswith(".json"):
            fields, text = text, text.get("text") if isinstance(text, dict) else None
            if not isinstance(text, str):
                raise ValueError(f'not {{"text": "..."}} but {shown(fields)}')
            try:
                text.encode()
            except UnicodeEncodeError as e:  # JSON can spell half a surrogate pair
                raise ValueError(f"'text' is not valid text ({e.reason})") from e
        Essays(text)
        return text


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 ({e.reason} at byte {e.start})") from e


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        raise ValueError(f"{printable(path)}: {e}") from e
