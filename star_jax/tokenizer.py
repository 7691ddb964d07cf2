"""Text to token ids and back, with the rules that make every kind of attention see the same ids.

A context gets exactly one BOS, and a query none: they are tokenised apart, because phase 1
encodes the context before there is a query.
"""

import os
from collections.abc import Sequence
from typing import Any

# A directory with none of these has no tokenizer.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Tokenizer:
    """A Hugging Face tokenizer; made by `from_pretrained`."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, special = added["input_ids"], added["special_tokens_mask"]
        # What the tokenizer itself puts in front: BOS, or nothing. Asking for `bos_token_id`
        # would not tell, since a tokenizer may have one and not add it.
        self._prefix: list[int] = ids[: special.index(0) if 0 in special else 0]

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> "Tokenizer | None":
        """Reads the tokenizer files of a local directory; None if it has none.

        Raises:
          ValueError: the files are there and cannot be read.
        """
        if not any(os.path.isfile(os.path.join(directory, name)) for name in _FILES):
            return None
        from transformers import AutoTokenizer  # slow to import

        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as e:  # the tokenizers library raises bare Exceptions
            reason = " ".join(str(e).split())
            raise ValueError(f"{os.fspath(directory)}: unreadable tokenizer ({reason})") from e
        return cls(tokenizer)

    def encode_context(self, text: str) -> list[int]:
        """Token ids with exactly one BOS: added if the tokenizer adds one and it is not there."""
        ids = self.encode_query(text)
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def encode_query(self, text: str) -> list[int]:
        """Token ids without any that are not in the text."""
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def span(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        """The tokens of `encode_context(text)` that overlap text[start:end], as [first, last + 1).

        None if the tokenizer cannot tell (the few that are not of the `tokenizers` library),
        or if no token does.
        """
        if not self._tokenizer.is_fast:
            return None
        offsets = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        if not inside:
            return None
        added = len(self.encode_context(text)) - len(offsets)
        return inside[0] + added, inside[-1] + 1 + added

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids, as it is: spaces before punctuation stay."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
