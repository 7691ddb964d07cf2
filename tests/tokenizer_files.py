"""Tokenizer files of many kinds, written as published ones are: small, and by hand."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [*"▁abcdefghijklmnopqrstuvwxyzABDESTRU:.,'?<>/|", "\n"]
_MERGES = [
    ("▁", "T"), ("▁T", "h"), ("▁Th", "e"), ("T", "h"), ("Th", "e"), ("▁", "s"), ("▁s", "k"),
    ("▁sk", "y"), ("▁", "b"), ("▁b", "l"), ("▁bl", "u"), ("▁blu", "e"), ("▁", "▁"),
]  # fmt: skip


def _sentencepiece(prepend: bool) -> tokenizers.Tokenizer:
    """As Llama 2's file (a normalizer puts a dummy prefix), or Yi's (none)."""
    words = [*SPECIAL, *_BYTES, *_LETTERS, *(a + b for a, b in _MERGES)]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    file = tokenizers.Tokenizer(
        models.BPE(vocab, _MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    before = [normalizers.Prepend("▁")] if prepend else []
    file.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    after = [decoders.Strip(" ", 1, 0)] if prepend else []
    file.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return file


def _metaspace(scheme: str) -> tokenizers.Tokenizer:
    """As newer conversions of SentencePiece have it."""
    file = _sentencepiece(prepend=False)
    file.normalizer = None
    file.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    after = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    file.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return file


def _unigram(scheme: str) -> tokenizers.Tokenizer:
    """As T5's: special tokens are pieces with the best of scores, so that text may become them."""
    pieces = [*SPECIAL, *_BYTES, *_LETTERS, *(a + b for a, b in _MERGES)]
    scores = [0.0 if p in SPECIAL else -20.0 / len(p) for p in dict.fromkeys(pieces)]
    vocab = list(zip(dict.fromkeys(pieces), scores, strict=True))
    file = tokenizers.Tokenizer(models.Unigram(vocab, 0, byte_fallback=True))
    file.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    file.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
    )
    return file


def _byte_level() -> tokenizers.Tokenizer:
    """As Llama 3's: a regular expression cuts the text, special tokens stand after the pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a.replace("▁", "Ġ"), b) for a, b in _MERGES[:-1]] + [("Ċ", "Ċ"), (".", "Ċ")]
    words = dict.fromkeys([*alphabet, *(a + b for a, b in merges)])
    file = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    split = tokenizers.Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    file.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    file.decoder = decoders.ByteLevel()
    return file


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": _byte_level,
    "dummy prefix": lambda: _sentencepiece(True),
    "no dummy prefix": lambda: _sentencepiece(False),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace first": lambda: _metaspace("first"),
    "metaspace never": lambda: _metaspace("never"),
    "unigram always": lambda: _unigram("always"),
    "unigram first": lambda: _unigram("first"),
    "unigram never": lambda: _unigram("never"),
}


def save(directory: pathlib.Path, kind: str, *, adds_bos: bool = True, **config: Any) -> None:
    """Writes tokenizer.json of a kind, and what tokenizer_config.json is to say."""
    file = KINDS[kind]()
    file.add_special_tokens(SPECIAL)
    if adds_bos:
        number = file.token_to_id("<s>")
        file.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", number)]
        )
    file.save(str(directory / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(named | config))
    (directory / "config.json").write_text('{"model_type": "llama"}')
