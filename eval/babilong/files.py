"""BABILong's files: the data set's parquet, or the lines that the reference has prepared of it."""

import abc
import functools
import glob
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from star_jax.eval import line_files
from star_jax.eval.babilong import prompts
from star_jax.eval.fitting import Frame
from star_jax.eval.ruler import TEMPLATES
from star_jax.json_files import shown
from star_jax.runs import jsonl
from star_jax.runs.jsonl import CHAT, DATE
from star_jax.runs.places import check_regular
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt, Text

COLUMNS = ("input", "question", "target")
_DATA_SET = "RMT-team/babilong-1k-samples"
_NAMES = {n * 2**10: f"{n}k" for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
_NAMES |= {n * 2**20: f"{n}M" for n in (1, 10)}
_ROWS = 8  # that are held
_BEGIN = TEMPLATES["llama3"][0].partition("<|start")[0]  # of a prepared line with a template


class Source(abc.ABC):
    """The samples of one task at one length; `indices` has one number for each."""

    indices: Sequence[int]

    @abc.abstractmethod
    def sample(self, position: int) -> Sample:
        """The sample at a position, with its prompt."""


def name_of(length: int) -> str:
    """BABILong's name of a length in tokens: k is 1024 of them.

    Raises:
      ValueError: it has no such length.
    """
    if length not in _NAMES:
        known = ", ".join(f"{tokens} ({name})" for tokens, name in _NAMES.items())
        raise ValueError(f"data.lengths: {length} is none of BABILong's; there is {known}")
    return _NAMES[length]


def paths(directory: str, task: str, length: int) -> Sequence[str]:
    """The files of a task at a length: pieces of parquet, or else one of prepared lines.

    Raises:
      OSError: there are none, or not all. Says how to get them.
    """
    name = name_of(length)
    pattern = os.path.join(name, f"{task}-*-of-*.parquet")
    found = sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
    if found:
        ends = [re.search(r"-(\d+)-of-(\d+)\.parquet$", path) for path in found]
        numbers = [(int(end[1]), int(end[2])) for end in ends if end]
        if numbers != [(i, len(found)) for i in range(len(found))]:
            raise FileNotFoundError(f"{found[0]}: its other pieces are missing, or are too many")
        return found
    prepared = os.path.join(directory, f"{task}_{name}.jsonl")
    if os.path.lexists(prepared):
        return [prepared]
    where = directory if os.path.isdir(directory) else f"{directory} (no such directory)"
    raise FileNotFoundError(
        f"data.path: there is no {pattern} and no {task}_{name}.jsonl in {where}; hf download "
        f"{_DATA_SET} --repo-type dataset --include '{name}/*' --local-dir {directory}"
    )


def read(paths: Sequence[str], task: str, frame: Frame) -> Source:
    """The samples in the files, checked from the first to the last.

    Raises:
      OSError, ValueError: a file is torn, or has not the fields that it should.
    """
    kind = _Parquet if paths[0].endswith(".parquet") else _Prepared
    source = kind(paths, task, frame)
    if not source.indices:
        raise ValueError(f"{paths[0]}: no questions in it")
    return source


class _Parquet(Source):
    """Rows of parquet, of which a few are held."""

    def __init__(self, paths: Sequence[str], task: str, frame: Frame):
        try:
            import pyarrow.parquet  # optional, and slow to import
        except ImportError as e:
            raise ValueError(
                f"{paths[0]} is read by the package pyarrow ({e}): pip install 'star-jax[suites]'"
            ) from e
        self._open = pyarrow.parquet.ParquetFile
        self._paths, self._task, self._frame = paths, task, frame
        self.indices = range(sum(1 for _ in self.rows()))

    def sample(self, position: int) -> Sample:
        row = _reader(self).row(position)
        head, tail = prompts.head(self._task), prompts.TAIL
        question = row["question"].strip()
        return Sample(
            position,
            self._frame.before + head + row["input"].strip() + tail,
            self._frame.query(prompts.QUESTION.format(question=question), ""),
            (row["target"].strip(),),
            facts={"task": self._task, "question": question},
        )

    def rows(self) -> Iterator[dict[str, str]]:
        """All rows in their order, as they are read."""
        for path in self._paths:
            check_regular(path)
            number = 0
            try:
                with self._open(path, buffer_size=2**20, pre_buffer=False) as file:
                    if missing := sorted(set(COLUMNS).difference(names := file.schema_arrow.names)):
                        raise ValueError(f"no column {missing}; there is {names}")
                    for batch in file.iter_batches(_ROWS, columns=list(COLUMNS)):
                        for row in batch.to_pylist():
                            yield _checked(row, number)
                            number += 1
            except (ValueError, OSError) as e:  # what pyarrow raises is one of these
                raise ValueError(f"{path}: {' '.join(str(e).split())}") from e


class _Reader:
    """Reads rows in their order; going back begins anew."""

    def __init__(self, source: _Parquet):
        self._source, self._at = source, 0
        self._ahead = source.rows()

    def row(self, position: int) -> dict[str, str]:
        if position < self._at:
            self._at, self._ahead = 0, self._source.rows()
        for _ in range(self._at, position):
            next(self._ahead)
        self._at = position + 1
        return next(self._ahead)


@functools.lru_cache(maxsize=1)
def _reader(source: _Parquet) -> _Reader:
    """The one reader: an open file holds a page of its rows, which may be a gigabyte."""
    return _Reader(source)


class _Prepared(Source):
    """Lines of the reference's prepare_data.py, whose text stays as it is.

    They have a chat template in them or not, as data.template says. Where they begin in the
    file is held, and not what they say.
    """

    def __init__(self, paths: Sequence[str], task: str, frame: Frame):
        (self._path,), self._task, self._frame = paths, task, frame
        self._starts: list[int] = []
        self.indices = []
        for start, line in jsonl.scan(self._path):
            try:
                if line.is_whole:
                    raise ValueError("no 'input_context', as BABILong's lines have it")
                if line.fields.get("answer_prefix"):
                    raise ValueError("it has an 'answer_prefix', and BABILong's lines have none")
                if len(line.sample.outputs) != 1:
                    raise ValueError(f"'outputs' has {len(line.sample.outputs)} answers, and not 1")
                self._texts(line.fields)
            except ValueError as e:
                raise ValueError(f"{line.place}: {e}") from e
            self._starts.append(start)
            self.indices.append(line.sample.index)

    def sample(self, position: int) -> Sample:
        fields = line_files.read_at(self._path, self._starts[position])
        context, query, question = self._texts(fields)
        outputs = jsonl.outputs(fields)
        facts = {"task": self._task, "question": question}
        given = jsonl.given(fields)
        return Sample(self.indices[position], context, query, outputs, facts=facts, given=given)

    def _texts(self, fields: dict[str, Any]) -> tuple[Text, Text, str]:
        """Context, query, and the question in it; what a template wrote is known as that.

        The reference strips its queries, and with them the end of the template: that is not
        asked for.
        """
        context, query = fields["input_context"], fields["input_query"].rstrip()
        template = self._frame.template
        before, after = TEMPLATES.get(template, ("", ""))
        is_plain = not context.startswith(_BEGIN)
        if is_plain != (not before) or not context.startswith(before):
            heads = {name: head for name, (head, _) in TEMPLATES.items() if head}
            fits = [name for name, head in heads.items() if context.startswith(head)]
            hint = f"; it fits {', '.join(fits)}" if fits else ""
            raise ValueError(f"the line has not been prepared for data.template={template!r}{hint}")
        if not query.endswith(after.strip()):
            raise ValueError(f"'input_query' does not end as data.template={template!r} does")
        inner = query.removesuffix(after.strip())
        question = inner.strip().removeprefix("Question:").strip()
        if template == CHAT:
            chat = self._frame.tokenizer.chat
            return *chat(context, fields["input_query"], date_string=DATE), question
        if not before:
            return context, fields["input_query"], question
        begin, end = Prompt.template(before), Prompt.template(after.strip())
        return begin + context.removeprefix(before), inner + end, question


def _checked(row: dict[str, Any], number: int) -> dict[str, str]:
    for name in COLUMNS:
        value = row[name]
        if not isinstance(value, str):
            raise ValueError(f"row {number}: {name!r} is not a string but {shown(value)}")
        if not value.strip():
            raise ValueError(f"row {number}: {name!r} is empty")
    return row
