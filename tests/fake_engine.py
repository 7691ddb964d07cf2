"""An engine without a model, for tests of everything around it.

It reads the needle out of the context's text, and misses it where a block edge comes close, so
that scores differ between rows. Its answers depend on nothing but the question, and it takes
`FAKE_ENGINE_SECONDS` for a batch.
"""

import json
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from test_tokenizer import save as save_tokenizer

from star_jax.cache.context import ContextBatch
from star_jax.engine import Engine
from star_jax.generate.likelihood import Scores
from star_jax.generate.stopping import Answer
from star_jax.prefill.kinds import Kind
from star_jax.prefill.star import Star
from star_jax.text.tokenizer import Tokenizer

CONFIG = {
    "model_type": "llama",
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def save_checkpoint(directory: pathlib.Path, *, weights: bool = False) -> None:
    """A checkpoint of a small model: configuration and tokenizer; random weights if asked for."""
    save_tokenizer(directory, adds="<s> $A")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    if weights:
        import llamas  # which takes PyTorch

        llamas.write(directory, llamas.build(CONFIG), CONFIG)


class FakeContext(ContextBatch):
    """Knows its tokens, and nothing else."""

    def __init__(self, rows: list[list[int]]):
        object.__setattr__(self, "tokens", rows)

    def block_until_ready(self) -> Any:
        return self


class FakeEngine(Engine):
    loaded = 0  # how often, by this process

    def __init__(self, tokenizer: Tokenizer, attention: Kind):
        self.tokenizer, self.attention = tokenizer, attention

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> "FakeEngine":
        cls.loaded += 1
        tokenizer = Tokenizer.from_pretrained(path)
        assert tokenizer is not None
        assert set(options) <= {"mesh", "attention", "dtype", "implementation"}
        return cls(tokenizer, options["attention"])

    def with_attention(self, attention: Kind) -> "FakeEngine":
        return FakeEngine(self.tokenizer, attention)

    def with_keep(self, keep: Any) -> "FakeEngine":
        del keep  # it keeps nothing
        return self

    def with_cache(self, cache_dtype: str | None) -> "FakeEngine":
        return self

    def prefill(self, context_ids: Any) -> Any:
        assert all(ids[0] == 0 for ids in context_ids)
        return FakeContext(context_ids)

    def generate(  # type: ignore[override]  # several questions to each context of a batch
        self,
        context: Any,
        query_ids: Any,
        *,
        max_new_tokens: Any,
        stop: Sequence[str] | None = None,
        ignore_eos: bool = False,
        sampling: Any = None,
        samples: Any = None,
    ) -> list[list[Answer]]:
        time.sleep(float(os.environ.get("FAKE_ENGINE_SECONDS", "0")))
        return [
            [self._answer(tokens, query, max_new_tokens) for query in queries]
            for tokens, queries in zip(context.tokens, query_ids, strict=True)
        ]

    def likelihood(self, context: Any, query_ids: Any) -> Any:
        """Of a token the log-probability -id/8; under Star Attention less."""
        less = 0.5 * isinstance(self.attention, Star)
        return [
            [Scores(np.asarray(query[1:], np.float32) / -8 - less) for query in queries]
            for queries in query_ids
        ]

    def _answer(self, context: list[int], query: list[int], max_new_tokens: int) -> Answer:
        text, question = self.tokenizer.decode(context), self.tokenizer.decode(query)
        key = re.search(r"number for (.*?) mentioned", question)
        found = re.search(rf"numbers for {re.escape(key[1])} is: (\d+)\.", text) if key else None
        if found and isinstance(self.attention, Star):
            start = text.rindex("One of the", 0, found.start())
            at = len(self.tokenizer.encode_context(text[:start]))
            if at % self.attention.block_size < 20:
                found = None
        tokens = self.tokenizer.encode_query(f" {found[1]}." if found else " no idea")
        tokens = tokens[:max_new_tokens]
        text = self.tokenizer.decode(tokens)
        return Answer(tokens, text, "length" if len(tokens) == max_new_tokens else "eos")
