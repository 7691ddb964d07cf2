"""InfiniteBench's files: JSON lines of which only the questions are held, and no contexts."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from star_jax import json_files
from star_jax.eval import line_files
from star_jax.eval.fitting import Frame, check_room, cut
from star_jax.eval.infinitebench.tasks import Question, ask
from star_jax.json_files import shown
from star_jax.runs.places import check_regular
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Text

_TAIL = "\n\n"  # after a context
_DATA_SET = "xinrongzhang2022/InfiniteBench"


@dataclasses.dataclass(frozen=True)
class Line:
    """Where a line begins in the file, its number, a digest of its context, and its question."""

    start: int
    number: int
    context: bytes
    question: Question


def path_of(directory: str, task: str) -> str:
    """The file of a task.

    Raises:
      FileNotFoundError: it is not there. Says how to get it.
    """
    path = os.path.join(directory, f"{task}.jsonl")
    if not os.path.lexists(path):
        where = "" if os.path.isdir(directory) else f" (data.path={directory} is no directory)"
        raise FileNotFoundError(
            f"there is no {path}{where}; hf download {_DATA_SET} --repo-type dataset --include "
            f"{task}.jsonl --local-dir {directory}"
        )
    return path


class Source:
    """The samples of a file, those of one context side by side.

    indices: of the samples in the order of asking, by their place in the file. All of the file
      makes the order, so that a run with more samples goes on where one with fewer ended. samples:
      how many of them are asked; None: all.

    Raises:
      OSError, ValueError: see `_scan`; or a question that is asked leaves no room for its context.
    """

    def __init__(self, path: str, task: str, frame: Frame, *, samples: int | None = None):
        self._path, self._frame = path, frame
        self._lines = _scan(path, task)
        self._of_context: dict[tuple[str, bytes], list[int]] = {}
        for i, line in enumerate(self._lines):
            self._of_context.setdefault((line.question.head, line.context), []).append(i)
        self.indices = [i for group in self._of_context.values() for i in group][:samples]
        asked = set(self.indices)
        for (head, _), group in self._of_context.items():
            if not asked.isdisjoint(group):
                self._check_room(head, [self._lines[i] for i in group])
        self._cut = functools.lru_cache(maxsize=1)(self._cut_once)

    def sample(self, position: int) -> Sample:
        """The sample at a position of `indices`."""
        index = self.indices[position]
        line = self._lines[index]
        context = self._cut((line.question.head, line.context))
        query = self._query(line.question)
        tokens = self._frame.count(context, query)
        return Sample(index, context, query, line.question.outputs, length=tokens)

    def _check_room(self, head: str, lines: Sequence[Line]) -> None:
        for line in lines:
            try:
                check_room(head, _TAIL, [self._query(line.question)], self._frame)
            except ValueError as e:
                raise ValueError(f"{self._path}:{line.number}: {e}") from e

    def _query(self, question: Question) -> Text:
        return self._frame.query(question.question, question.answer_prefix)

    def _cut_once(self, key: tuple[str, bytes]) -> Text:
        """A context, as much of it as leaves room for the longest of its questions."""
        lines = [self._lines[i] for i in self._of_context[key]]
        text = line_files.read_at(self._path, lines[0].start)["context"]
        queries = [self._query(line.question) for line in lines]
        return cut(key[0], text, _TAIL, queries, self._frame)


def _scan(path: str, task: str) -> list[Line]:
    """The lines of a file, without their contexts.

    Raises:
      OSError, ValueError: it cannot be read, or something in it is wrong. Names file and line.
    """
    found = []
    check_regular(path)
    with open(path, "rb") as file:
        end = 0
        for number, text in enumerate(file, start=1):
            start, end = end, end + len(text)
            if not text.strip():
                continue
            try:
                fields = json_files.parse(text, limit=len(text))
                digest = hashlib.blake2b(_context(fields), digest_size=16).digest()
                found.append(Line(start, number, digest, ask(task, fields)))
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from e
    if not found:
        raise ValueError(f"{path}: no questions in it")
    return found


def _context(fields: dict[str, Any]) -> bytes:
    context = fields.get("context")
    if not isinstance(context, str) or not context.strip():
        raise ValueError(f"'context' is {shown(context)}, and no text")
    try:
        return context.encode()
    except UnicodeEncodeError as e:  # JSON can spell half a surrogate pair
        raise ValueError(f"'context' is not valid text ({e.reason})") from e
