"""Phase 2 as an engine offers it: contexts are asked, and answers generated."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack, overload

import numpy as np

from star_jax import sizes
from star_jax.advice import warn
from star_jax.cache.context import Asked, Context, ContextBatch, Encoded
from star_jax.checkpoint.fingerprint import Fingerprint
from star_jax.generate import compiled, inputs
from star_jax.generate.compiled import STRIDE
from star_jax.generate.generation import Generation
from star_jax.generate.inputs import Ids, Many, Nested, One, Questions
from star_jax.generate.likelihood import Scores, likelihood_of, score_queries
from star_jax.generate.run import Settings
from star_jax.generate.sampling import GREEDY, Sampling, parse
from star_jax.generate.stopping import Answer
from star_jax.models import Decoder
from star_jax.runtime.runtime import Runtime
from star_jax.text.tokenizer import Tokenizer

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


class Answering(abc.ABC):
    """The methods of an engine that ask contexts."""

    model: Decoder
    runtime: Runtime
    eos_token_ids: tuple[int, ...]
    _tokenizer: Tokenizer | None

    @property
    @abc.abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What contexts are encoded with."""

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @overload
    def score(self, context: Context, query_ids: One, *, last: int | None = ...) -> np.ndarray: ...
    @overload
    def score(
        self, context: Context, query_ids: Many, *, last: int | None = ...
    ) -> list[np.ndarray]: ...
    @overload
    def score(
        self, context: ContextBatch, query_ids: One | Many, *, last: int | None = ...
    ) -> list[np.ndarray]: ...
    @overload
    def score(
        self, context: ContextBatch, query_ids: Nested, *, last: int | None = ...
    ) -> list[list[np.ndarray]]: ...
    def score(
        self, context: Encoded, query_ids: Ids, *, last: int | None = None
    ) -> np.ndarray | list[Any]:
        """Phase 2, teacher-forced: the logits after each query token, float32 [Lq, V].

        last: after so many tokens of each query alone, its last ones; all of a shorter query.

        See `generate` for what may be asked at once. The logits come to the host part by part:
        devices hold those of 128 tokens of each query at a time. Where log-probabilities are
        enough, `likelihood` takes less.
        """
        if last is not None:
            last = sizes.whole("last", last)
        questions = self._ask(context, query_ids)
        programs = self._programs(context)
        scores = score_queries(self.model, context, questions.of_rows, last=last, programs=programs)
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
        settings = Settings(limits, parse(sampling), inputs.samples(samples), stride)
        questions = self._ask(context, query_ids, limits.max_new_tokens)
        generation = Generation(
            self.model,
            self.runtime,
            context,
            questions,
            settings,
            decode=None if self._tokenizer is None else self._tokenizer.decode,
            probe=None if self._tokenizer is None else self._tokenizer.probe,
            keep=keep,
        )
        return questions, generation

    def _programs(self, context: Encoded) -> compiled.Programs:
        runtime = self.runtime.keeping(context.groups[0].cache.kind)
        return compiled.programs(runtime, GREEDY.mode, context.has_turns)

    def _ask(self, context: Encoded, query_ids: Ids, max_new_tokens: int = 0) -> Questions:
        inputs.encoded(context).check(self.runtime.mesh, self.fingerprint)
        questions = inputs.ask(
            context,
            query_ids,
            vocab_size=self.runtime.config.vocab_size,
            may_be_empty=max_new_tokens > 0,
        )
        longest = max(
            len(tokens) + max(map(len, row))
            for tokens, row in zip(context.tokens, questions.of_rows, strict=True)
        )
        needed, most = longest + max_new_tokens, self.runtime.config.max_position_embeddings
        if needed > most:
            warn(
                f"context, query and answer may take {needed} positions, beyond the model's {most}"
            )
        return questions
