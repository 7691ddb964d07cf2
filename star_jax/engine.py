"""The façade: load a model, encode contexts once, ask them often."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax import checkpoint, exact, generate, query, star
from star_jax import mesh as mesh_lib
from star_jax.attention import resolve
from star_jax.cache import Cache, Deal, bucket, pad
from star_jax.dense import Dense
from star_jax.generate import Answer
from star_jax.models import config as model_config
from star_jax.models.llama import Llama
from star_jax.ring import Ring
from star_jax.star import Star
from star_jax.tokenizer import Tokenizer
from star_jax.ulysses import Ulysses

DTYPES = ("bfloat16", "float16", "float32")

Attention = Star | Dense | Ring | Ulysses
Ids = Any  # Sequence[int] or Sequence[Sequence[int]], or an array: of token ids


@dataclasses.dataclass(frozen=True)
class Context:
    """An encoded context, or a batch of them. Asking it changes nothing: ask it often."""

    tokens: list[list[int]]  # one list per row, without the rows that pad the batch
    is_batch: bool
    cache: Cache
    deal: Deal
    mesh: Mesh

    def prefix(self, length: int) -> "Context":
        """The context of the first `length` tokens of each row, as if no more were encoded.

        It shares the keys and values; nothing is computed. Shorter rows stay whole.
        """
        if length < 1:
            raise ValueError(f"{length=} must be at least 1")
        tokens = [row[:length] for row in self.tokens]
        batch = self.cache.valid.shape[0]
        valid = self.deal.valid([*map(len, tokens), *[0] * (batch - len(tokens))])
        put = mesh_lib.putter(self.mesh)
        cache = self.cache._replace(valid=put(valid, mesh_lib.BLOCKS))
        return dataclasses.replace(self, tokens=tokens, cache=cache)

    def block_until_ready(self) -> "Context":
        """Waits until phase 1 has run."""
        jax.block_until_ready(self.cache)
        return self


class Engine:
    """A model on a mesh, with one kind of attention for its contexts."""

    def __init__(
        self,
        model: Llama,
        *,
        mesh: Mesh,
        attention: Attention,
        implementation: str | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        implementation = check(mesh, attention, implementation, config=model.config)
        self.model = mesh_lib.place(model, mesh)
        self.mesh = mesh
        self.attention = attention
        self.implementation = implementation
        self.tokenizer = tokenizer
        self.eos_token_ids = model.config.eos_token_ids

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        mesh: Mesh,
        attention: Attention,
        dtype: str = "bfloat16",
        implementation: str | None = None,
    ) -> "Engine":
        """Loads a Hugging Face checkpoint: a local directory, or an id on the hub.

        Args:
          path: holds config.json, one or many safetensors files, and maybe a tokenizer.
          mesh: from `make_mesh`.
          attention: how contexts are encoded: `Star(...)`, or exactly, by `Ring()`, `Ulysses()`
            or `Dense()`.
          dtype: of weights, activations and cache: bfloat16, float16 or float32.
          implementation: of attention; None picks the best for the mesh's devices.

        Raises:
          FileNotFoundError, ValueError: the checkpoint is not there, torn, or does not fit.
          NotImplementedError: its configuration asks for something that is not supported.
        """
        if dtype not in DTYPES:
            raise ValueError(f"{dtype=} must be one of {DTYPES}")
        check(mesh, attention, implementation)  # before anything is fetched
        directory = checkpoint.resolve(path)
        config = model_config.read(directory)
        check(mesh, attention, implementation, config=config)  # before weights are read
        return cls(
            checkpoint.load(directory, config, mesh=mesh, dtype=dtype),
            mesh=mesh,
            attention=attention,
            implementation=implementation,
            tokenizer=Tokenizer.from_pretrained(directory),
        )

    @property
    def config(self) -> model_config.LlamaConfig:
        """The model's configuration."""
        return self.model.config

    def with_attention(self, attention: Attention) -> "Engine":
        """The same weights with another kind of attention."""
        return Engine(
            self.model,
            mesh=self.mesh,
            attention=attention,
            implementation=self.implementation,
            tokenizer=self.tokenizer,
        )

    def prefill(self, context_ids: Ids) -> Context:
        """Phase 1: encodes a context, or a batch of contexts of any lengths.

        Args:
          context_ids: token ids; or a list of such lists, one per context of a batch.

        Raises:
          ValueError: no context, an empty one, or an id outside the vocabulary.
        """
        rows, is_batch = _rows(context_ids, "context")
        self._check_ids(rows, "context")
        self._warn_of(rows)
        padded = rows + [[]] * (-len(rows) % self.mesh.shape[mesh_lib.DATA])
        encode: Callable[..., tuple[Cache, Deal]] = exact.encode
        if isinstance(self.attention, Star):
            encode = star.encode
        cache, deal = encode(
            self.model,
            padded,
            attention=self.attention,
            mesh=self.mesh,
            implementation=self.implementation,
        )
        return Context(rows, is_batch, cache, deal, self.mesh)

    def score(self, context: Context, query_ids: Ids) -> jax.Array | list[jax.Array]:
        """Phase 2, teacher-forced: the logits after each query token, float32 [Lq, V].

        For a batch, `query_ids` is one query for all, or one per context; returns a list.
        """
        queries, tokens, _, starts = self._queries(context, query_ids)
        programs = query.programs(self.config, self.mesh, self.implementation, generate.STRIDE)
        put = mesh_lib.putter(self.mesh)
        logits = programs.score(self.model, context.cache, put(tokens, mesh_lib.QUERY), put(starts))
        results = [logits[i, : len(ids)] for i, ids in enumerate(queries)]
        return results if context.is_batch else results[0]

    def generate(
        self,
        context: Context,
        query_ids: Ids,
        *,
        max_new_tokens: int | np.integer,
        stop: Sequence[str] | None = None,
        ignore_eos: bool = False,
    ) -> Answer | list[Answer]:
        """Phase 2: greedy answers. For a batch, returns a list, one per context.

        Args:
          context: from `prefill`; it is not consumed.
          query_ids: token ids; for a batch, one query for all, or one per context.
          max_new_tokens: at most this many.
          stop: strings that end an answer; they need a tokenizer.
          ignore_eos: go on after EOS.
        """
        if not isinstance(max_new_tokens, int | np.integer) or max_new_tokens < 1:
            raise ValueError(f"{max_new_tokens=} must be an integer, at least 1")
        stop = () if stop is None else stop
        if isinstance(stop, str):
            raise ValueError(f"{stop=} must be a list of strings")
        if not all(stop):
            raise ValueError(f"{stop=} has an empty string, which would end every answer")
        if stop and self.tokenizer is None:
            raise ValueError(f"{stop=} needs a tokenizer, and the checkpoint has none")
        queries, tokens, lengths, starts = self._queries(context, query_ids, max_new_tokens)
        eos = () if ignore_eos else self.eos_token_ids
        limits = generate.Limits(int(max_new_tokens), tuple(stop), eos)
        decode = None if self.tokenizer is None else self.tokenizer.decode
        rows = [generate.Row(limits, decode) for _ in queries]
        generate.generate(
            self.model,
            context.cache,
            tokens=tokens,
            lengths=lengths,
            starts=starts,
            rows=rows,
            limits=limits,
            mesh=self.mesh,
            implementation=self.implementation,
        )
        answers = [row.answer() for row in rows]
        return answers if context.is_batch else answers[0]

    def _queries(
        self, context: Context, query_ids: Ids, max_new_tokens: int | np.integer = 0
    ) -> tuple[list[list[int]], np.ndarray, np.ndarray, np.ndarray]:
        """The queries; and for the padded batch their tokens, lengths and start positions."""
        if context.mesh != self.mesh:
            raise ValueError("the context was encoded on another mesh than this engine's")
        queries, one_each = _rows(query_ids, "query")
        if one_each and not context.is_batch:
            raise ValueError("a list of queries needs a batch of contexts")
        if not one_each:
            queries = queries * len(context.tokens)
        if len(queries) != len(context.tokens):
            raise ValueError(f"{len(queries)} queries for {len(context.tokens)} contexts")
        self._check_ids(queries, "query")
        pairs = zip(context.tokens, queries, strict=True)
        length, most = max(len(c) + len(q) for c, q in pairs), self.config.max_position_embeddings
        if length + max_new_tokens > most:
            _warn(
                f"context, query and answer may take {length + max_new_tokens} positions, "
                f"beyond the model's {most}"
            )
        batch = context.cache.valid.shape[0]
        empty: list[list[int]] = [[]] * (batch - len(queries))
        tokens = pad(queries + empty, bucket(max(map(len, queries))))
        lengths = np.asarray([len(ids) for ids in queries + empty], np.int32)
        starts = np.asarray([len(ids) for ids in context.tokens + empty], np.int32)
        return queries, tokens, lengths, starts

    def _check_ids(self, rows: list[list[int]], what: str) -> None:
        for i, ids in enumerate(rows):
            if not ids:
                raise ValueError(f"{what} {i} is empty: it needs at least one token")
            if min(ids) < 0 or max(ids) >= self.config.vocab_size:
                raise ValueError(
                    f"{what} {i} has token ids from {min(ids)} to {max(ids)}, "
                    f"and the vocabulary has {self.config.vocab_size}"
                )

    def _warn_of(self, rows: list[list[int]]) -> None:
        longest, most = max(map(len, rows)), self.config.max_position_embeddings
        if longest > most:
            _warn(f"a context of {longest} tokens is beyond the model's {most} positions")
        devices = self.mesh.shape[mesh_lib.CONTEXT]
        if isinstance(self.attention, Star):
            size = self.attention.block_size
            blocks = -(-longest // size)
            if blocks < devices:
                _warn(
                    f"{blocks} block(s) of {size} tokens for {devices} devices on the context "
                    f"axis: {devices - blocks} idle; use smaller blocks"
                )
            if blocks <= 2:
                _warn(
                    f"{longest} tokens are {blocks} block(s) of {size}: exact attention would be "
                    "as fast; use Ring() or Dense(), or smaller blocks"
                )


def _warn(message: str) -> None:
    warnings.warn(f"star_jax: {message}", UserWarning, stacklevel=4)


def check(
    mesh: Mesh,
    attention: Attention,
    implementation: str | None,
    *,
    config: model_config.LlamaConfig | None = None,
) -> str:
    """Refuses what cannot run, of this model if its config is there; names the implementation.

    Raises:
      ValueError, NotImplementedError: what cannot run, and why.
    """
    if mesh.axis_names != mesh_lib.AXES:
        raise ValueError(f"a mesh with {mesh.axis_names=}: make it with star_jax.make_mesh")
    if not isinstance(attention, Attention):
        raise ValueError(f"{attention=} must be Star(...), Ring(), Ulysses() or Dense()")
    if config is not None:
        mesh_lib.weight_specs(config, mesh)  # raises if a weight cannot be divided
        if isinstance(attention, Ulysses):
            attention.check(config, mesh)
    return resolve(implementation, mesh)


def _rows(ids: Any, what: str) -> tuple[list[list[int]], bool]:
    """Token ids as a list of rows, and whether they came as one."""
    if isinstance(ids, str):
        raise ValueError(f"{what} is text; it takes token ids (see engine.tokenizer)")
    if getattr(ids, "ndim", 1) in (1, 2) and len(ids) == 0:
        raise ValueError(f"{what} is empty: it needs at least one token")
    if np.ndim(ids[0]) == 0 and not isinstance(ids[0], str):
        return [_row(ids, what)], False
    return [_row(row, f"{what} {i}") for i, row in enumerate(ids)], True


def _row(ids: Any, what: str) -> list[int]:
    try:
        row = np.asarray(ids)
    except ValueError:  # of uneven lists
        row = np.zeros((0, 0))
    if row.ndim == 1 and not len(row):
        return []
    if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
        raise ValueError(f"{what} must be a list of token ids, or a list of such lists")
    return row.tolist()
