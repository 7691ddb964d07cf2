"""The façade: load a model, encode contexts once, ask them often."""

import dataclasses
import os
import warnings
from collections.abc import Generator
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax import checkpoint, checks, models
from star_jax.cache import compressed, reading
from star_jax.cache.context import Asked, Context, ContextBatch
from star_jax.cache.group import Group, grouped
from star_jax.cache.layer import LayerCache, Plain
from star_jax.checkpoint.fingerprint import Fingerprint, Weights, of_tokenizer
from star_jax.checks import DTYPES, check
from star_jax.generate import inputs
from star_jax.generate.answering import Answering
from star_jax.generate.inputs import Ids, Many, One
from star_jax.generate.likelihood import Scores, score_document
from star_jax.models import Decoder, DecoderConfig
from star_jax.prefill import kinds
from star_jax.prefill.kinds import Kind
from star_jax.prefill.steps import Prefilling, Step, after
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import place
from star_jax.runtime.runtime import Runtime
from star_jax.text.tokenizer import Tokenizer


class Engine(Answering):
    """A model on a mesh, with one kind of attention for its contexts."""

    def __init__(
        self,
        model: Decoder,
        *,
        mesh: Mesh,
        attention: Kind,
        implementation: str | None = None,
        tokenizer: Tokenizer | None = None,
        layer_cache: type[LayerCache] = Plain,
    ):
        dtype = str(jax.tree.leaves(model)[0].dtype)
        how = {"dtype": dtype, "cache_dtype": compressed.dtype_of(layer_cache)}
        implementation = check(mesh, attention, implementation, config=model.config, **how)
        self.model = place(model, mesh)
        self.runtime = Runtime(model.config, mesh, implementation, layer_cache)
        self.attention = attention
        self.tokenizer = tokenizer
        self.eos_token_ids = model.config.eos_token_ids
        self._weights = Weights()

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        mesh: Mesh,
        attention: Kind,
        dtype: str = "bfloat16",
        cache_dtype: str | None = None,
        implementation: str | None = None,
    ) -> "Engine":
        """Loads a Hugging Face checkpoint: a local directory, or an id on the hub.

        Args:
          path: holds config.json, one or many safetensors files, and maybe a tokenizer. Weights
            in 8 bits are dequantised to `dtype`.
          mesh: from `make_mesh`.
          attention: how contexts are encoded: `Star(...)`, or exactly, by `Ring()`, `Ulysses()`
            or `Dense()`.
          dtype: of weights, activations and cache: bfloat16, float16 or float32.
          cache_dtype: "int8" or "fp8" (E4M3) keeps the keys and values of contexts in 8 bits; None
            in `dtype`.
          implementation: of attention; None picks the best for the mesh's devices.

        Raises:
          FileNotFoundError, ValueError: the checkpoint is not there, torn, or does not fit.
          NotImplementedError: its configuration asks for something that is not supported.
        """
        if dtype not in DTYPES:
            raise ValueError(f"{dtype=} must be one of {DTYPES}")
        layer_cache = compressed.of_dtype(cache_dtype)
        # Before anything is fetched.
        check(mesh, attention, implementation, cache_dtype=cache_dtype)
        directory = checkpoint.resolve(path)
        config = models.read(directory)
        # Before weights are read.
        check(mesh, attention, implementation, config=config, dtype=dtype, cache_dtype=cache_dtype)
        if (tokenizer := Tokenizer.from_pretrained(directory)) is not None:
            for problem in tokenizer.problems(
                vocab_size=config.vocab_size, eos_token_ids=config.eos_token_ids
            ):
                warnings.warn(f"star_jax: {problem}", stacklevel=2)
        return cls(
            checkpoint.load(directory, config, mesh=mesh, dtype=dtype),
            mesh=mesh,
            attention=attention,
            implementation=implementation,
            tokenizer=tokenizer,
            layer_cache=layer_cache,
        )

    @property
    def config(self) -> DecoderConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def mesh(self) -> Mesh:
        return self.runtime.mesh

    @property
    def implementation(self) -> str:
        """What computes attention on the devices."""
        return self.runtime.implementation

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's; `has_tokenizer` says whether there is one, since ids do without.

        Raises:
          ValueError: there is none.
        """
        if self._tokenizer is None:
            raise ValueError("the checkpoint has no tokenizer: only token ids can be used")
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def with_attention(self, attention: Kind) -> "Engine":
        """The same weights with another kind of attention."""
        return self._with(attention, self.runtime.layer_cache)

    def with_cache(self, cache_dtype: str | None) -> "Engine":
        """The same weights, and contexts kept in another dtype; see `from_pretrained`."""
        return self._with(self.attention, compressed.of_dtype(cache_dtype))

    def _with(self, attention: Kind, layer_cache: type[LayerCache]) -> "Engine":
        other = Engine(
            self.model,
            mesh=self.mesh,
            attention=attention,
            implementation=self.implementation,
            tokenizer=self._tokenizer,
            layer_cache=layer_cache,
        )
        other.eos_token_ids = self.eos_token_ids
        other._weights = self._weights
        return other

    @property
    def encoding(self) -> dict[str, Any] | None:
        """What files tell of how its contexts are encoded; None of a baseline."""
        return kinds.fields(self.attention)

    @property
    def fingerprint(self) -> Fingerprint:
        """What contexts are encoded with. The weights are hashed when it is first asked for."""
        return Fingerprint(
            weights=self._weights.digest(self.model, self.mesh),
            config=self.config,
            dtype=str(jax.tree.leaves(self.model)[0].dtype),
            tokenizer=of_tokenizer(self._tokenizer),
            attention=repr(self.attention),
            cache=compressed.dtype_of(self.runtime.layer_cache),
        )

    @overload
    def prefill(self, context_ids: One) -> Context: ...
    @overload
    def prefill(self, context_ids: Many) -> ContextBatch: ...
    def prefill(self, context_ids: Ids) -> Context | ContextBatch:
        """Phase 1: encodes a context, or a batch of contexts of any lengths.

        Args:
          context_ids: token ids; or a list of such lists, one per context of a batch.

        Raises:
          ValueError: no context, an empty one, or an id outside the vocabulary.
        """
        return self._prefilling(context_ids).finish()

    @overload
    def prefilling(self, context_ids: One) -> Prefilling[Context]: ...
    @overload
    def prefilling(self, context_ids: Many) -> Prefilling[ContextBatch]: ...
    def prefilling(self, context_ids: Ids) -> Prefilling[Any]:
        """`prefill` in steps: to tell how far it is, and to do something else in between.

        prefilling = engine.prefilling(ids)
        for done in prefilling:
            print(f"{done} of {prefilling.tokens} tokens")
        context = prefilling.context
        """
        return self._prefilling(context_ids)

    def _prefilling(self, context_ids: Ids) -> Prefilling[Any]:
        rows, is_batch = inputs.rows(context_ids, "context", vocab_size=self.config.vocab_size)
        checks.advise(rows, self.config, self.mesh, self.attention)
        data = self.mesh.shape[mesh_lib.DATA]
        groups = grouped([len(row) for row in rows], data=data)
        kind = ContextBatch if is_batch else Context
        return Prefilling(self._encode(rows, groups, kind), tokens=sum(map(len, rows)))

    def _encode(
        self,
        rows: list[list[int]],
        groups: list[tuple[int, ...]],
        kind: type[Context] | type[ContextBatch],
    ) -> Generator[Step, None, Context | ContextBatch]:
        encoded, done = [], 0
        for group in groups:
            tokens = [rows[i] for i in group]
            steps = self.attention.encode(self.model, self._padded(tokens), runtime=self.runtime)
            cache, shards = yield from after(done, steps)
            lengths = [len(row) for row in tokens]
            encoded.append(Group(group, tokens, lengths, cache, shards, self.mesh))
            done += sum(lengths)
        return kind(rows, tuple(encoded), self.mesh, self.fingerprint, self.encoding)

    @overload
    def extend(self, context: Context, more_ids: One) -> Context: ...
    @overload
    def extend(self, context: ContextBatch, more_ids: Many) -> ContextBatch: ...
    def extend(self, context: Context | ContextBatch, more_ids: Ids) -> Context | ContextBatch:
        """The context with more tokens at its end, as if all of it had been encoded at once.

        Star Attention encodes only the new blocks, and anew those of the wave that the context
        ends in: a block of each device at most. The contexts of a batch that were encoded side by
        side start at the wave that the shortest one ends in. Exact attention encodes all of it
        anew, and so is a dialogue's latest part. The context stays as it is; both are in memory.

        Args:
          context: from `prefill`, of this engine's attention.
          more_ids: token ids; for a batch one list for each context, which may be empty.

        Raises:
          ValueError: the context is another engine's, or was encoded by another attention; or
            see `prefill`.
        """
        return self._extending(context, more_ids).finish()

    @overload
    def extending(self, context: Context, more_ids: One) -> Prefilling[Context]: ...
    @overload
    def extending(self, context: ContextBatch, more_ids: Many) -> Prefilling[ContextBatch]: ...
    def extending(self, context: Context | ContextBatch, more_ids: Ids) -> Prefilling[Any]:
        """`extend` in steps, as `prefilling` is."""
        return self._extending(context, more_ids)

    def _extending(self, context: Context | ContextBatch, more_ids: Ids) -> Prefilling[Any]:
        inputs.encoded(context).check(self.mesh, self.fingerprint)
        if context.fingerprint.attention != repr(self.attention):
            raise ValueError(
                f"the context was encoded by {context.fingerprint.attention}, and this engine has "
                f"{self.attention!r}: extend it with an engine that has the same"
            )
        vocab_size = self.config.vocab_size
        more, is_batch = inputs.rows(
            more_ids, "more_ids", vocab_size=vocab_size, may_be_empty=context.is_batch
        )
        if is_batch != context.is_batch or len(more) != len(context.tokens):
            raise ValueError(f"more_ids must be a list for each of {len(context.tokens)} contexts")
        rows = [[*told, *ids] for told, ids in zip(context.tokens, more, strict=True)]
        checks.advise(rows, self.config, self.mesh, self.attention)
        return Prefilling(self._extend(context, rows), tokens=sum(map(len, rows)))

    def load_context(self, path: str | os.PathLike[str]) -> Context | ContextBatch:
        """What `save` has written: the keys and values go to this engine's mesh; nothing runs.

        All processes must call it, and see the same directory.

        Raises:
          FileNotFoundError: nothing is there.
          ValueError: no context was saved there, it is torn, or another model encoded it.
        """
        return reading.load(
            path,
            runtime=self.runtime,
            fingerprint=self.fingerprint,
            kind_of=kinds.of_fields,
        )

    def _extend(self, context: Asked, rows: list[list[int]]) -> Generator[Step, None, Asked]:
        extended, done = [], 0
        for group in context.groups:
            tokens = group.of(rows)
            steps = self.attention.extend(
                self.model,
                self._padded(tokens),
                cache=group.cache,
                shards=group.shards,
                encoded=min(group.encoded),
                runtime=self.runtime.keeping(group.cache.kind),
            )
            cache, shards = yield from after(done, steps)
            lengths = [len(row) for row in tokens]
            extended.append(Group(group.rows, tokens, lengths, cache, shards, self.mesh))
            done += sum(lengths)
        return dataclasses.replace(context, tokens=rows, groups=tuple(extended))

    def _padded(self, tokens: list[list[int]]) -> list[list[int]]:
        return tokens + [[]] * (-len(tokens) % self.mesh.shape[mesh_lib.DATA])

    @overload
    def score_document(self, document_ids: One, *, window: int | np.integer = ...) -> Scores: ...
    @overload
    def score_document(
        self, document_ids: Many, *, window: int | np.integer = ...
    ) -> list[Scores]: ...
    def score_document(
        self, document_ids: Ids, *, window: int | np.integer = 1024
    ) -> Scores | list[Scores]:
        """The log-probability of each token of a document, given all that come before it.

        The document is encoded as a context is, by this engine's attention; then window after
        window is asked, as a query, of the part before it. So Star Attention is what encodes
        that part, and exact attention gives what one forward of the whole document would.

        Args:
          document_ids: token ids, at least two; or a list of such lists.
          window: tokens that are asked at once. Logits are never held for all of them.
        """
        size = inputs.whole("window", window)
        document = self.prefill(document_ids)
        programs = self._programs(document)
        scores = score_document(self.model, document, window=size, programs=programs)
        return scores if document.is_batch else scores[0]
