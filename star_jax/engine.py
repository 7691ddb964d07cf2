"""The façade: load a model, encode contexts once, ask them often."""

import os
import warnings
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax import checkpoint, models
from star_jax.cache import compressed, reading
from star_jax.cache.context import Context, ContextBatch
from star_jax.cache.layer import LayerCache, Plain
from star_jax.checkpoint.fingerprint import Fingerprint, Weights, of_tokenizer
from star_jax.checks import DTYPES, check, check_window
from star_jax.encoding import Encoding
from star_jax.generate import inputs
from star_jax.generate.answering import Answering
from star_jax.generate.inputs import Ids, Many, One
from star_jax.generate.likelihood import Scores, score_document
from star_jax.models import Decoder, DecoderConfig
from star_jax.prefill import kinds
from star_jax.prefill.keeping import Keep
from star_jax.prefill.kinds import Kind
from star_jax.runtime.placement import place
from star_jax.runtime.runtime import Runtime
from star_jax.text.tokenizer import Tokenizer


class Engine(Encoding, Answering):
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
        keep: Keep | None = None,
    ):
        dtype = str(jax.tree.leaves(model)[0].dtype)
        how = {"dtype": dtype, "cache_dtype": compressed.dtype_of(layer_cache)}
        implementation = check(
            mesh, attention, implementation, config=model.config, keep=keep, **how
        )
        self.model = place(model, mesh)
        self.keep = keep
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
        keep: Keep | None = None,
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
          keep: the share of a context's keys that is kept, and what chooses them; None: all.

        Raises:
          FileNotFoundError, ValueError: the checkpoint is not there, torn, or does not fit.
          NotImplementedError: its configuration asks for something that is not supported.
        """
        if dtype not in DTYPES:
            raise ValueError(f"{dtype=} must be one of {DTYPES}")
        layer_cache = compressed.of_dtype(cache_dtype)
        # Before anything is fetched.
        check(mesh, attention, implementation, cache_dtype=cache_dtype, keep=keep)
        directory = checkpoint.resolve(path)
        config = models.read(directory)
        how = {"dtype": dtype, "cache_dtype": cache_dtype}
        # Before weights are read.
        check(mesh, attention, implementation, config=config, keep=keep, **how)
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
            keep=keep,
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
        return self._with(attention=attention)

    def with_keep(self, keep: Keep | None) -> "Engine":
        """The same weights, keeping another share of a context's keys."""
        return self._with(keep=keep)

    def with_cache(self, cache_dtype: str | None) -> "Engine":
        """The same weights, and contexts kept in another dtype; see `from_pretrained`."""
        return self._with(layer_cache=compressed.of_dtype(cache_dtype))

    def _with(self, **how: Any) -> "Engine":
        mine = {
            "attention": self.attention,
            "layer_cache": self.runtime.layer_cache,
            "keep": self.keep,
        }
        other = Engine(
            self.model,
            mesh=self.mesh,
            implementation=self.implementation,
            tokenizer=self._tokenizer,
            **{**mine, **how},
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
            attention=self._how,
            cache=compressed.dtype_of(self.runtime.layer_cache),
        )

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
          window: tokens that are asked at once. Logits are never held for all of them. With
            `keep` a multiple of the block, unless the document has one window.
        """
        size = inputs.whole("window", window)
        rows, _ = inputs.rows(document_ids, "context", vocab_size=self.config.vocab_size)
        check_window(size, rows, self.attention, self.keep)
        document = self.prefill(document_ids)
        programs = self._programs(document)
        scores = score_document(self.model, document, window=size, programs=programs)
        return scores if document.is_batch else scores[0]
