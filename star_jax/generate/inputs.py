"""What callers hand in, checked: token ids as rows, queries for contexts, where answers end."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from star_jax.cache.context import Context, ContextBatch, Encoded, token_bytes
from star_jax.cache.group import Group
from star_jax.cache.sharded import bucket, pad
from star_jax.generate.compiled import Question
from star_jax.generate.stopping import Limits
from star_jax.runtime import mesh as mesh_lib
from star_jax.sizes import MOST, shown, whole

T = TypeVar("T")

SAMPLES = 2**16  # answers to one question, at once; more come from other seeds
QUESTIONS = 2**12  # questions to one context, at once
STOP = 256  # characters of a stop word

# Token ids, for type checkers: of one text, and of a batch. The type of JAX's arrays does not tell
# how many axes they have: with two they are a batch, though they count as one text here.
One = Sequence[int | np.integer] | np.ndarray[tuple[int], np.dtype[Any]] | jax.Array
Many = Sequence[One] | np.ndarray[tuple[int, int], np.dtype[Any]]
Nested = Sequence[Many]  # several queries for each context of a batch
Ids = Any  # either; what comes is checked here, by name


def rows(
    ids: Ids, what: str, *, vocab_size: int, may_be_empty: bool = False
) -> tuple[list[list[int]], bool]:
    """Token ids as a list of rows, and whether they came as a list of lists.

    Raises:
      ValueError: they are neither ids nor lists of ids, a row is empty and may not be, or an
        id is outside the vocabulary. It calls them `what`.
    """
    if isinstance(ids, str | bytes | bytearray | memoryview):
        raise ValueError(f"{what} is text; it takes token ids (see engine.tokenizer)")
    if getattr(ids, "ndim", 1) == 0 or not isinstance(ids, Sequence | np.ndarray | jax.Array):
        raise ValueError(f"{what} must be a list of token ids, or a list of such lists")
    if len(ids) == 0 and may_be_empty:
        return [[]], False
    if len(ids) == 0:
        raise ValueError(f"{what} is empty: it needs at least one token")
    if len(ids) > MOST:
        raise ValueError(f"{what} has {len(ids)} entries, and positions end at {MOST}")
    first = ids[0]  # NumPy would look for the dimensions of a list, and uneven lists have none
    is_batch = isinstance(first, Sequence) or np.ndim(first) > 0
    found = [_row(row, f"{what} {i}") for i, row in enumerate(ids)] if is_batch else []
    found = found or [_row(ids, what)]
    for i, row in enumerate(found):
        if not row and not may_be_empty:
            raise ValueError(f"{what} {i} is empty: it needs at least one token")
        if row and (min(row) < 0 or max(row) >= vocab_size):
            raise ValueError(
                f"{what} {i} has token ids from {min(row)} to {max(row)}, "
                f"and the vocabulary has {vocab_size}"
            )
    return found, is_batch


def _row(ids: Any, what: str) -> list[int]:
    try:
        row = np.asarray(ids)
    except ValueError:  # of uneven lists
        row = np.zeros((0, 0))
    if row.ndim == 1 and not len(row):
        return []
    is_text = isinstance(ids, bytearray | memoryview)  # NumPy makes numbers of these
    has_bools = isinstance(ids, Sequence) and not {bool, np.bool_}.isdisjoint(map(type, ids))
    if row.ndim != 1 or row.dtype.kind not in "iu" or is_text or has_bools:
        raise ValueError(f"{what} must be a list of token ids, or a list of such lists")
    return row.tolist()


def encoded(context: Any) -> Encoded:
    """The context itself; raises ValueError for what is none, like the ids of one."""
    if not isinstance(context, Encoded):
        raise ValueError(f"context={shown(context)} must be what engine.prefill returns")
    return context


@dataclasses.dataclass(frozen=True)
class Questions:
    """Queries for the rows of a context, any number for each.

    of_rows: [row][question], each a list of token ids. nested: whether the results are a list
    for each row; otherwise they are one list, or (single) one result.
    """

    of_rows: list[list[list[int]]]
    nested: bool
    single: bool

    @property
    def flat(self) -> list[list[int]]:
        """All queries, row after row."""
        return [query for row in self.of_rows for query in row]

    def shaped(self, results: list[T]) -> Any:
        """What the caller gets for these results, one for each of `flat`."""
        if self.single:
            return results[0]
        if not self.nested:
            return results
        left = iter(results)
        return [[next(left) for _ in row] for row in self.of_rows]


def ask(
    context: Encoded, query_ids: Ids, *, vocab_size: int, may_be_empty: bool = False
) -> Questions:
    """The queries for each row of a context.

    One query goes to all rows. A list of queries is for a `Context` as many questions as it
    has; for a batch it has one query, or one list of queries, for each row.

    Raises:
      ValueError: their number is not that of the contexts, or see `rows`.
    """
    many = len(context.tokens)
    if isinstance(context, ContextBatch) and _is_nested(query_ids):
        of_rows = []
        for i, some in enumerate(query_ids):
            found, several = rows(
                some, f"queries of context {i}:", vocab_size=vocab_size, may_be_empty=may_be_empty
            )
            if not several:
                raise ValueError(f"queries of context {i} must be a list of queries, as the others")
            of_rows.append(found)
        questions = Questions(of_rows, nested=True, single=False)
    else:
        found, several = rows(query_ids, "query", vocab_size=vocab_size, may_be_empty=may_be_empty)
        if isinstance(context, Context):
            return _counted(Questions([found], nested=False, single=not several))
        of_rows = [[query] for query in found] if several else [found] * many
        questions = Questions(of_rows, nested=False, single=False)
    if len(questions.of_rows) != many:
        what = "lists of queries" if questions.nested else "queries"
        raise ValueError(f"{len(questions.of_rows)} {what} for {many} contexts")
    return _counted(questions)


def _counted(questions: Questions) -> Questions:
    for row in questions.of_rows:
        if len(row) > QUESTIONS:
            raise ValueError(f"{len(row)} questions to one context: at most {QUESTIONS} at once")
    return questions


def _is_nested(ids: Any) -> bool:
    """Whether ids are lists of lists of ids."""

    def is_list(x: Any) -> bool:
        return isinstance(x, Sequence | np.ndarray) and not isinstance(x, str | bytes)

    if not is_list(ids) or not len(ids) or not is_list(ids[0]) or not len(ids[0]):
        return False
    return np.ndim(ids[0]) > 1 if isinstance(ids[0], np.ndarray) else is_list(ids[0][0])


def slots(group: Group, of_rows: Sequence[Sequence[T]], padding: T) -> list[T]:
    """What there is for each question of a group, with padding: as many for every row."""
    count = bucket(max(map(len, of_rows)), least=1)
    found = [one for row in of_rows for one in (*row, *[padding] * (count - len(row)))]
    return found + [padding] * (group.batch * count - len(found))


def question(group: Group, of_rows: Sequence[Sequence[list[int]]]) -> Question:
    """The queries of a group as arrays on the mesh, padded to a bucket and to its rows."""
    none: list[int] = []
    queries = slots(group, of_rows, none)
    starts = [[len(tokens)] * len(row) for tokens, row in zip(group.tokens, of_rows, strict=True)]
    put = mesh_lib.put_on(group.mesh)
    return Question(
        put(pad(queries, bucket(max(map(len, queries)))), mesh_lib.QUERY),
        put(np.asarray([len(ids) for ids in queries], np.int32)),
        put(np.asarray(slots(group, starts, 0), np.int32)),
    )


def prompts(context: Encoded, of_rows: Sequence[Sequence[list[int]]]) -> list[list[int]]:
    """For each question a hash, 64 bits, of the tokens of context and query, as of one text."""
    found = []
    for told, row in zip(context.hashed, of_rows, strict=True):
        hashes = [told.copy() for _ in row]
        for one, query in zip(hashes, row, strict=True):
            one.update(token_bytes(query))
        found.append([int.from_bytes(one.digest()) for one in hashes])
    return found


def seen(
    group: Group, of_rows: Sequence[Sequence[list[int]]], *, samples: int, vocab_size: int
) -> np.ndarray:
    """Which tokens context and query hold, for each row of the answers: bool [R, V].

    With `vocab_size` 0, for answers without a penalty, it has no columns.
    """
    held = [
        [(tokens, query) for query in row]
        for tokens, row in zip(group.tokens, of_rows, strict=True)
    ]
    nothing: tuple[list[int], list[int]] = ([], [])
    whole = slots(group, held, nothing)
    found = np.zeros((len(whole), vocab_size), bool)
    if vocab_size:
        for row, (tokens, query) in zip(found, whole, strict=True):
            row[tokens] = row[query] = True
    return np.repeat(found, samples, axis=0)


def limits(
    max_new_tokens: int | np.integer,
    stop: Sequence[str] | None,
    eos: Sequence[int],
    *,
    has_tokenizer: bool,
) -> Limits:
    """When answers end; raises ValueError for what cannot be."""
    max_new_tokens = whole("max_new_tokens", max_new_tokens)
    if np.ndim(eos) != 1 or isinstance(eos, str):
        raise ValueError(f"eos_token_ids={shown(eos)} must be a list of token ids")
    eos = tuple(whole("eos_token_id", token, least=0) for token in eos)
    told = f"stop={shown(stop)}"
    is_list = not isinstance(stop, str | bytes) and isinstance(stop, Iterable | None)
    if not is_list or getattr(stop, "ndim", 1) == 0:  # arrays without axes have `__iter__`, too
        raise ValueError(f"{told} must be a list of strings")
    stop = tuple(() if stop is None else stop)
    if not all(isinstance(word, str) for word in stop):
        raise ValueError(f"{told} must be a list of strings")
    if not all(stop):
        raise ValueError(f"{told} has an empty string, which would end every answer")
    if long := [word for word in stop if len(word) > STOP]:  # each token looks for it behind itself
        raise ValueError(f"stop={shown(long)} has more than {STOP} characters")
    if stop and not has_tokenizer:
        raise ValueError(f"{told} needs a tokenizer, and the checkpoint has none")
    return Limits(max_new_tokens, stop, eos)


def samples(number: int | np.integer | None) -> int:
    """How many answers to draw for each question; None is one."""
    return 1 if number is None else whole("samples", number, most=SAMPLES)
