"""Text to token ids and back, with the rules that make every kind of attention see the same ids.

A context gets exactly one BOS, and a query none: they are tokenised apart, because phase 1
encodes the context before there is a query. A query is tokenised as the middle of a text.
SentencePiece tokenizers put a space before a text, and others may: the first token of a query
would then be that of a new text, `tok(a) + tok(b)` not `tok(a + b)`. So it is tokenised behind
some other text, whose tokens are cut off again. `tok(a + b)` it is then, unless one token would
reach over the border: end a context where a token ends, for example with a newline.
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

# A directory with none of these has no tokenizer.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

# What a query may stand behind: something that tokenizers keep apart from what follows.
_LEADS = ("\n", ".", "0", "a")


class Tokenizer:
    """A Hugging Face tokenizer; made by `from_pretrained`.

    probe: a token that may change the text of those before it, None where none does. Decoders
      that fall back on bytes make marks of a whole run of them if its last character is not
      complete: what was text may not be text any more.
    digest: a hash of what says which ids a text has; equal for equal files.
    """

    probe: int | None = None
    digest: str = ""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.probe = tokenizer.get_vocab().get("<0xFF>")  # a byte that no character has
        added = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, special = added["input_ids"], added["special_tokens_mask"]
        # What the tokenizer itself puts in front: BOS, or nothing. Asking for `bos_token_id`
        # would not tell, since a tokenizer may have one and not add it.
        self._prefix: list[int] = ids[: special.index(0) if 0 in special else 0]
        rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
        told = f"{self._prefix} {sorted(tokenizer.get_vocab().items())} {rules}"
        self.digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

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
        ids = self._ids(text)
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def encode_query(self, text: str) -> list[int]:
        """Token ids of a text that goes on where another ended: nothing is added to it."""
        for lead, before in self._leads:
            ids = self._ids(lead + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._ids(text)

    def count(self, text: str) -> int:
        """Tokens of a text, BOS apart: at most so many, be it a context or a query."""
        return max(len(self._ids(text)), len(self.encode_query(text)) if self._leads else 0)

    def count_added(self, text: str) -> int:
        """How many tokens `encode_context` puts before those of the text: BOS, or none."""
        return len(self.encode_context(text)) - len(self._ids(text))

    def chat(
        self,
        context: str,
        query: str,
        *,
        answer_prefix: str = "",
        system: str | None = None,
        date_string: str | None = None,
    ) -> tuple[str, str]:
        """Context and query as one message in the model's chat template, cut between them.

        Special tokens that a text spells out are those tokens. Templates like Llama 3.1's show
        a date: `date_string`, or else today.

        Returns:
          What is to be encoded as context, and as query: this ends with the header of the
          assistant's answer and with `answer_prefix`, with which the answer begins. Together
          they are the template, rendered whole.

        Raises:
          ValueError: there is no template, it refuses a system message, or it does not show a
            user's message as it is.
        """
        text = context + query
        taken = text + (system or "")
        marker = next(m for i in itertools.count() if (m := f"[[cut{i}]]") not in taken)
        rendered = self._render(context + marker + query, system, date_string)
        if (count := rendered.count(marker)) != 1:
            raise ValueError(
                f"the chat template shows a user's message {count} times: "
                "it cannot be cut into context and query"
            )
        before, after = rendered.split(marker)
        if before + after != self._render(text, system, date_string):
            raise ValueError(
                "the chat template changes a user's message: "
                "it cannot be cut into context and query"
            )
        return before, after + answer_prefix

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
        added = self.count_added(text)
        return inside[0] + added, inside[-1] + 1 + added

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids, as it is: spaces before punctuation stay."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    @functools.cached_property
    def _leads(self) -> list[tuple[str, list[int]]]:
        """What a query is put behind, with its tokens; nothing if a text is left as it is."""
        leads = [(lead, self._ids(lead)) for lead in _LEADS]
        alone = self._ids("a")
        inside = [ids[len(before) :] for lead, before in leads if (ids := self._ids(lead + "a"))]
        return [] if alone in inside else leads

    def _render(self, message: str, system: str | None, date_string: str | None) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template")
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": message})
        variables = {} if date_string is None else {"date_string": date_string}
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **variables
            )
        except Exception as e:  # a template is a program, and raises what it likes
            raise ValueError(f"the chat template fails: {' '.join(str(e).split())}") from e
