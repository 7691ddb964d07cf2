"""What callers hand in, checked: token ids as rows, queries for contexts, where answers end."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from star_jax import mesh as mesh_lib
from star_jax.cache import bucket, pad
from star_jax.context import Encoded, Group, digest
from star_jax.query import Question
from star_jax.sizes import MOST, shown, whole
from star_jax.stopping import Limits

SAMPLES = 2**16  # of one question, at once; more come from other seeds

# Token ids, for type checkers: of one text, and of a batch. The type of JAX's arrays does not tell
# how many axes they have: with two they are a batch, though they count as one text here.
One = Sequence[int | np.integer] | np.ndarray[tuple[int], np.dtype[Any]] | jax.Array
Many = Sequence[One] | np.ndarray[tuple[int, int], np.dtype[Any]]
Ids = Any  # either; what comes is checked here, by name


def rows(ids: Ids, what: str, *, vocab_size: int) -> tuple[list[list[int]], bool]:
    """Token ids as a list of rows, none of them empty, and whether they came as one.

    Raises:
      ValueError: they are neither ids nor lists of ids, a row is empty, or an id is outside
        the vocabulary. It calls them `what`.
    """
    if isinstance(ids, str | bytes | bytearray | memoryview):
        raise ValueError(f"{what} is text; it takes token ids (see engine.tokenizer)")
    if getattr(ids, "ndim", 1) == 0 or not isinstance(ids, Sequence | np.ndarray | jax.Array):
        raise ValueError(f"{what} must be a list of token ids, or a list of such lists")
    if len(ids) == 0:
        raise ValueError(f"{what} is empty: it needs at least one token")
    if len(ids) > MOST:
        raise ValueError(f"{what} has {len(ids)} entries, and positions end at {MOST}")
    first = ids[0]  # NumPy would look for the dimensions of a list, and uneven lists have none
    is_batch = isinstance(first, Sequence) or np.ndim(first) > 0
    found = [_row(row, f"{what} {i}") for i, row in enumerate(ids)] if is_batch else []
    found = found or [_row(ids, what)]
    for i, row in enumerate(found):
        if not row:
            raise ValueError(f"{what} {i} is empty: it needs at least one token")
        if min(row) < 0 or max(row) >= vocab_size:
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


def ask(context: Encoded, query_ids: Ids, *, vocab_size: int) -> list[list[int]]:
    """One query for each row of a context: the same for all, or one each.

    Raises:
      ValueError: their number is not that of the contexts, or see `rows`.
    """
    queries, one_each = rows(query_ids, "query", vocab_size=vocab_size)
    if one_each and not context.is_batch:
        raise ValueError("a list of queries needs a batch of contexts")
    if not one_each:
        queries = queries * len(context.tokens)
    if len(queries) != len(context.tokens):
        raise ValueError(f"{len(queries)} queries for {len(context.tokens)} contexts")
    return queries


def question(group: Group, queries: list[list[int]]) -> Question:
    """The queries of a group as arrays on the mesh, padded to a bucket and to its rows."""
    empty: list[list[int]] = [[]] * (group.batch - len(queries))
    put = mesh_lib.putter(group.mesh)
    return Question(
        put(pad(queries + empty, bucket(max(map(len, queries)))), mesh_lib.QUERY),
        put(np.asarray([len(ids) for ids in queries + empty], np.int32)),
        put(np.asarray([len(ids) for ids in group.tokens + empty], np.int32)),
    )


def prompts(context: Encoded, queries: list[list[int]]) -> list[int]:
    """For each row a hash, 64 bits, of the tokens of context and query."""
    return [
        int.from_bytes(hashlib.blake2b(row + digest(query), digest_size=8).digest())
        for row, query in zip(context.digests, queries, strict=True)
    ]


def seen(group: Group, queries: list[list[int]], *, samples: int, vocab_size: int) -> np.ndarray:
    """Which tokens context and query hold, for each row of the answers: bool [R, V].

    With `vocab_size` 0, for answers without a penalty, it has no columns.
    """
    found = np.zeros((group.batch, vocab_size), bool)
    if vocab_size:
        for i, (row, query) in enumerate(zip(group.tokens, queries, strict=True)):
            found[i, row] = found[i, query] = True
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
    if stop and not has_tokenizer:
        raise ValueError(f"{told} needs a tokenizer, and the checkpoint has none")
    return Limits(max_new_tokens, stop, eos)


def samples(number: int | np.integer | None) -> int:
    """How many answers to draw for each question; None is one."""
    return 1 if number is None else whole("samples", number, most=SAMPLES)
