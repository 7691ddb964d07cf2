"""The façade: load a model, encode contexts once, ask them often."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack, overload

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax import checkpoint, checks, inputs, models, query, sizes
from star_jax import mesh as mesh_lib
from star_jax.checks import DTYPES, check
from star_jax.context import Asked, Context, ContextBatch, Encoded, Group, grouped
from star_jax.fingerprint import Fingerprint, Weights, of_tokenizer
from star_jax.generate import STRIDE, Generation, Settings
from star_jax.inputs import Ids, Many, Nested, One, Questions
from star_jax.kinds import Kind
from star_jax.layer_cache import LayerCache, Plain
from star_jax.likelihood import Scores, likelihood_of, score_document, score_queries
from star_jax.models import Decoder, DecoderConfig
from star_jax.placement import place
from star_jax.sampling import GREEDY, Sampling, parse
from star_jax.stopping import Answer
from star_jax.tokenizer import Tokenizer

STREAMED = 4  # tokens between two pieces of text


class _How(TypedDict, total=False):
    """The options of `generate`, for its overloads."""

    max_new_tokens: Required[int | np.integer]
    stop: Sequence[str] | None
    ignore_eos: bool
    sampling: Sampling | Mapping[str, Any] | None


class _One(_How, total=False):
    samples: None


class _Many(_How):
    samples: int | np.integer


class Engine:
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
        implementation = check(mesh, attention, implementation, config=model.config, dtype=dtype)
        self.model = place(model, mesh)
        self.mesh = mesh
        self.attention = attention
        self.implementation = implementation
        self.layer_cache = layer_cache
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
        config = models.read(directory)
        # Before weights are read.
        check(mesh, attention, implementation, config=config, dtype=dtype)
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
        )

    @property
    def config(self) -> DecoderConfig:
        """The model's configuration."""
        return self.model.config

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

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    def with_attention(self, attention: Kind) -> "Engine":
        """The same weights with another kind of attention."""
        other = Engine(
            self.model,
            mesh=self.mesh,
            attention=attention,
            implementation=self.implementation,
            tokenizer=self._tokenizer,
            layer_cache=self.layer_cache,
        )
        other.eos_token_ids = self.eos_token_ids
        other._weights = self._weights
        return other

    @property
    def fingerprint(self) -> Fingerprint:
        """What contexts are encoded with. The weights are hashed when it is first asked for."""
        return Fingerprint(
            weights=self._weights.digest(self.model, self.mesh),
            config=self.config,
            dtype=str(jax.tree.leaves(self.model)[0].dtype),
            tokenizer=of_tokenizer(self._tokenizer),
            attention=repr(self.attention),
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
        rows, is_batch = inputs.rows(context_ids, "context", vocab_size=self.config.vocab_size)
        checks.advise(rows, self.config, self.mesh, self.attention)
        data = self.mesh.shape[mesh_lib.DATA]
        groups = grouped([len(row) for row in rows], data=data)
        encoded = tuple(self._encode([rows[i] for i in group], group) for group in groups)
        kind = ContextBatch if is_batch else Context
        return kind(rows, encoded, self.mesh, self.fingerprint)

    def _encode(self, tokens: list[list[int]], rows: tuple[int, ...]) -> Group:
        padded = tokens + [[]] * (-len(tokens) % self.mesh.shape[mesh_lib.DATA])
        cache, shards = self.attention.encode(
            self.model,
            padded,
            mesh=self.mesh,
            implementation=self.implementation,
            layer_cache=self.layer_cache,
        )
        return Group(rows, tokens, [len(row) for row in tokens], cache, shards, self.mesh)

    @overload
    def score(self, context: Context, query_ids: One) -> np.ndarray: ...
    @overload
    def score(self, context: Context, query_ids: Many) -> list[np.ndarray]: ...
    @overload
    def score(self, context: ContextBatch, query_ids: One | Many) -> list[np.ndarray]: ...
    @overload
    def score(self, context: ContextBatch, query_ids: Nested) -> list[list[np.ndarray]]: ...
    def score(self, context: Encoded, query_ids: Ids) -> np.ndarray | list[Any]:
        """Phase 2, teacher-forced: the logits after each query token, float32 [Lq, V].

        See `generate` for what may be asked at once. The logits come to the host part by part:
        devices hold those of 128 tokens of each query at a time. Where log-probabilities are
        enough, `likelihood` takes less.
        """
        questions = self._ask(context, query_ids)
        programs = self._programs(context)
        scores = score_queries(self.model, context, questions.of_rows, programs=programs)
        return questions.shaped(scores)

    @overload
    def likelihood(self, context: Context, query_ids: One) -> Scores: ...
    @overload
    def likelihood(self, context: Context, query_ids: Many) -> list[Scores]: ...
    @overload
    def likelihood(self, context: ContextBatch, query_ids: One | Many) -> list[Scores]: ...
    @overload
    def likelihood(self, context: ContextBatch, query_ids: Nested) -> list[list[Scores]]: ...
    def likelihood(self, context: Encoded, query_ids: Ids) -> Scores | list[Any]:
        """The log-probability of each query token after the first, given all before it.

        As `score`, of whose logits it needs no more than those of 128 tokens at any time.
        """
        questions = self._ask(context, query_ids)
        programs = self._programs(context)
        scores = likelihood_of(self.model, context, questions.of_rows, programs=programs)
        return questions.shaped(scores)

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

    @overload
    def generate(self, context: Context, query_ids: One, **how: Unpack[_One]) -> Answer: ...
    @overload
    def generate(self, context: Context, query_ids: One, **how: Unpack[_Many]) -> list[Answer]: ...
    @overload
    def generate(self, context: Context, query_ids: Many, **how: Unpack[_One]) -> list[Answer]: ...
    @overload
    def generate(
        self, context: Context, query_ids: Many, **how: Unpack[_Many]
    ) -> list[list[Answer]]: ...
    @overload
    def generate(
        self, context: ContextBatch, query_ids: One | Many, **how: Unpack[_One]
    ) -> list[Answer]: ...
    @overload
    def generate(
        self, context: ContextBatch, query_ids: One | Many, **how: Unpack[_Many]
    ) -> list[list[Answer]]: ...
    @overload
    def generate(
        self, context: ContextBatch, query_ids: Nested, **how: Unpack[_One]
    ) -> list[list[Answer]]: ...
    @overload
    def generate(
        self, context: ContextBatch, query_ids: Nested, **how: Unpack[_Many]
    ) -> list[list[list[Answer]]]: ...
    def generate(
        self,
        context: Encoded,
        query_ids: Ids,
        *,
        max_new_tokens: int | np.integer,
        stop: Sequence[str] | None = None,
        ignore_eos: bool = False,
        sampling: Sampling | Mapping[str, Any] | None = None,
        samples: int | np.integer | None = None,
    ) -> Answer | list[Any]:
        """Phase 2: answers, greedy unless `sampling` says otherwise.

        Args:
          context: from `prefill`; it is not consumed.
          query_ids: token ids; or a list of such queries, asked together: the context's keys lie
            in memory once, and are read once a token for all of them. For a batch: one query for
            all contexts, or one for each, or a list of queries for each. A query may be empty,
            where the context ends the prompt.
          max_new_tokens: at most this many.
          stop: strings that end an answer; they need a tokenizer.
          ignore_eos: go on after EOS.
          sampling: how tokens are drawn; a mapping of its fields will do.
          samples: how many answers to draw for each query, at once: the context is read once
            for all of them. An answer becomes a list of that many.

        Returns:
          An `Answer`; for several queries a list, one for each; for a batch a list, one (or one
          such list) for each context.
        """
        questions, generation = self._start(
            context, query_ids, max_new_tokens, stop, ignore_eos, sampling, samples, keep=False
        )
        answers: list[Any] = generation.finish()
        if samples is not None:
            answers = [answers[i : i + samples] for i in range(0, len(answers), int(samples))]
        return questions.shaped(answers)

    def start(
        self,
        context: Asked,
        query_ids: Ids,
        *,
        max_new_tokens: int | np.integer,
        stop: Sequence[str] | None = None,
        ignore_eos: bool = False,
        sampling: Sampling | Mapping[str, Any] | None = None,
        samples: int | np.integer | None = None,
        stride: int | np.integer = STREAMED,
    ) -> Generation[Asked]:
        """`generate`, as an object to iterate over while answers come: see `Generation`.

        `stride`: tokens between two events of an answer, at most 32.
        """
        stride = sizes.whole("stride", stride, most=STRIDE)
        return self._start(
            context,
            query_ids,
            max_new_tokens,
            stop,
            ignore_eos,
            sampling,
            samples,
            stride=stride,
        )[1]

    def stream(
        self,
        context: Encoded,
        query_ids: One,
        *,
        max_new_tokens: int | np.integer,
        stop: Sequence[str] | None = None,
        ignore_eos: bool = False,
        sampling: Sampling | Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """`generate` for one context and query, yielding the answer's text as it comes.

        The pieces together are the text that `generate` returns: what may turn out to be a stop
        word, or a character whose last bytes are still to come, is held back.
        """
        if inputs.encoded(context).is_batch:
            raise ValueError("stream takes one context, not a batch")
        if not self.has_tokenizer:
            raise ValueError("stream yields text, and the checkpoint has no tokenizer")
        questions, generation = self._start(
            context, query_ids, max_new_tokens, stop, ignore_eos, sampling, None, stride=STREAMED
        )
        if not questions.single:
            raise ValueError("stream takes one query, not a list of them")
        return (event.text for event in generation if event.text)

    def _start(
        self,
        context: Asked,
        query_ids: Ids,
        max_new_tokens: int | np.integer,
        stop: Sequence[str] | None,
        ignore_eos: bool,
        sampling: Sampling | Mapping[str, Any] | None,
        samples: int | np.integer | None,
        *,
        stride: int = STRIDE,
        keep: bool = True,
    ) -> tuple[Questions, Generation[Asked]]:
        """The questions, checked, and their answers to come."""
        eos = () if ignore_eos else self.eos_token_ids
        limits = inputs.limits(max_new_tokens, stop, eos, has_tokenizer=self.has_tokenizer)
        settings = Settings(
            limits, parse(sampling), inputs.samples(samples), self.implementation, stride
        )
        questions = self._ask(context, query_ids, limits.max_new_tokens)
        generation = Generation(
            self.model,
            context,
            questions,
            settings,
            decode=None if self._tokenizer is None else self._tokenizer.decode,
            probe=None if self._tokenizer is None else self._tokenizer.probe,
            keep=keep,
        )
        return questions, generation

    def _programs(self, context: Encoded) -> query.Programs:
        return query.programs(
            self.config,
            self.mesh,
            self.implementation,
            STRIDE,
            GREEDY.mode,
            context.groups[0].cache.kind,
            context.has_turns,
        )

    def _ask(self, context: Encoded, query_ids: Ids, max_new_tokens: int = 0) -> Questions:
        inputs.encoded(context).check(self.mesh, self.fingerprint)
        questions = inputs.ask(
            context,
            query_ids,
            vocab_size=self.config.vocab_size,
            may_be_empty=max_new_tokens > 0,
        )
        longest = max(
            len(tokens) + max(map(len, row))
            for tokens, row in zip(context.tokens, questions.of_rows, strict=True)
        )
        needed, most = longest + max_new_tokens, self.config.max_position_embeddings
        if needed > most:
            checks.warn(
                f"context, query and answer may take {needed} positions, beyond the model's {most}"
            )
        return questions
