"""Phase 1 as an engine offers it: contexts are encoded, and extended."""

import abc
import dataclasses
from collections.abc import Generator
from typing import Any, overload

from jax.sharding import Mesh

from star_jax import checks
from star_jax.cache.context import Asked, Context, ContextBatch
from star_jax.cache.group import Group, grouped
from star_jax.checkpoint.fingerprint import Fingerprint
from star_jax.generate import inputs
from star_jax.generate.inputs import Ids, Many, One
from star_jax.models import Decoder, DecoderConfig
from star_jax.prefill import kinds
from star_jax.prefill.keeping import Keep
from star_jax.prefill.kinds import Kind
from star_jax.prefill.steps import Prefilling, Step, after
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Runtime


class Encoding(abc.ABC):
    """The methods of an engine that encode contexts."""

    model: Decoder
    runtime: Runtime
    attention: Kind
    keep: Keep | None

    @property
    @abc.abstractmethod
    def config(self) -> DecoderConfig:
        """The model's configuration."""

    @property
    @abc.abstractmethod
    def mesh(self) -> Mesh:
        """The devices."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What contexts are encoded with."""

    @property
    def encoding(self) -> dict[str, Any] | None:
        """What files tell of how its contexts are encoded; None of what they do not keep."""
        return kinds.fields(self.attention) if self.keep is None else None

    @property
    def _how(self) -> str:
        """What encodes a context, and what is kept of it."""
        return ", ".join(repr(one) for one in (self.attention, self.keep) if one is not None)

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
            steps = self.attention.encode(self.model, self._padded(tokens), runtime=self._prefills)
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
        if context.fingerprint.attention != self._how:
            raise ValueError(
                f"the context was encoded by {context.fingerprint.attention}, and this engine has "
                f"{self._how}: extend it with an engine that has the same"
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

    @property
    def _prefills(self) -> Runtime:
        """What phase 1 runs with. Phase 2 does not ask how keys were chosen."""
        return dataclasses.replace(self.runtime, keep=self.keep)

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
                runtime=self._prefills.keeping(group.cache.kind),
            )
            cache, shards = yield from after(done, steps)
            lengths = [len(row) for row in tokens]
            extended.append(Group(group.rows, tokens, lengths, cache, shards, self.mesh))
            done += sum(lengths)
        return dataclasses.replace(context, tokens=rows, groups=tuple(extended))

    def _padded(self, tokens: list[list[int]]) -> list[list[int]]:
        return tokens + [[]] * (-len(tokens) % self.mesh.shape[mesh_lib.DATA])
