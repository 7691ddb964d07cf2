"""Text to token ids and back, with the rules that make every kind of attention see the same ids.

A context gets exactly one BOS, and a query none: they are tokenised apart, because phase 1
encodes the context before there is a query. A query is tokenised as the middle of a text.
SentencePiece tokenizers put a space before a text, and others may: the first token of a query
would then be that of a new text, `tok(a) + tok(b)` not `tok(a + b)`. So it is tokenised behind
some other text, whose tokens are cut off again. `tok(a + b)` it is then, unless one token would
reach over the border: end a context where a token ends, for example with a newline. Answers are
decoded as the middle of a text, too.

A user's text is text: where it spells a special token, it gets the tokens of these characters.
Templates have special tokens; see `Prompt`.
"""

import bisect
import functools
import hashlib
import itertools
import operator
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers

from star_jax.json_files import shown
from star_jax.sizes import MOST
from star_jax.text import files
from star_jax.text.files import Files
from star_jax.text.prompt import Prompt, Text
from star_jax.text.special import Unspellable
from star_jax.text.templated import Templated

__all__ = ["Prompt", "Text", "Tokenizer"]

_BRACKETED = re.compile(r"<\S+>|\[\S+\]")  # not runs of spaces, which may be added tokens too

# What is no token ids is refused by name, and not by its annotation.
Ids = Any

# What a query may stand behind: something that tokenizers keep apart from what follows.
_LEADS = ("\n", ".", "0", "a")


class Tokenizer(Templated):
    """A model's tokenizer; made by `from_pretrained`.

    Texts are str, all of it a user's, or a `Prompt`. Other types are a ValueError.

    bos_token_id, eos_token_id: as the files name them; None where they do not.
    probe: a token that may change the text of those before it, None where none does. Decoders
      that fall back on bytes make marks of a whole run of them if its last character is not
      complete: what was text may not be text any more.
    digest: a hash of what says which ids a text has; equal for equal files.
    """

    probe: int | None = None
    digest: str = ""

    def __init__(self, read: Files):
        self._file = read.file
        self._names = read.names
        self._chat_template = read.chat_template
        named = [read.names.get(name) for name in ("bos_token", "eos_token")]
        self.bos_token_id, self.eos_token_id = (
            None if token is None else read.file.token_to_id(token) for token in named
        )
        self.probe = read.file.token_to_id("<0xFF>")  # a byte that no character has
        self._contents = _control(read)
        unknown = (read.names.get("unk_token"), getattr(read.file.model, "unk_token", None))
        self._unknown = self._contents.intersection(unknown)
        ids = map(read.file.token_to_id, self._contents - self._unknown)
        self._special = frozenset(i for i in ids if i is not None)
        self._prefix = self._before_texts(read.add_bos_token)
        told = f"{self._prefix} {read.file.to_str()}"
        self.digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that no text of a user has."""
        return self._special

    @functools.cached_property
    def longest(self) -> int:
        """The characters that a token stands for, at most, where no normaliser takes text away."""
        return max(map(len, self._file.get_vocab(with_added_tokens=True)), default=1)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> "Tokenizer | None":
        """Reads the tokenizer files of a local directory; None if it has none.

        `tokenizer.json` decides ids and text. `tokenizer_config.json` says which tokens are BOS
        and EOS, and whether a text gets a BOS. Code beside them is never run.

        Raises:
          ValueError: the files are there and cannot be read, or contradict each other.
        """
        read = files.read(directory)
        return None if read is None else cls(read)

    def encode_context(self, text: Text, *, special: bool = False) -> list[int]:
        """Token ids with exactly one BOS: added if texts get one and it is not there.

        special: special tokens that a str spells are those tokens. Not for what users write.
        """
        ids = self._encode(Prompt.of(text, "encode_context", special=special)).ids
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def encode_query(self, text: Text, *, after: Text = "", special: bool = False) -> list[int]:
        """Token ids of a text that goes on where another ended: nothing is added to it.

        after: the context. It matters if that ends in a special token, behind which some
          tokenizers begin a text anew: with it, both together have the ids of the whole text.
        special: special tokens that a str spells are those tokens. Not for what users write.
        """
        prompt = Prompt.of(text, "encode_query", special=special)
        token = self._last_special(Prompt.of(after, "encode_query(after=...)", special=special))
        leads = self._leads
        if token is not None:
            begin = Prompt.template(token)
            leads = [(begin, self._encode(begin).ids)]
        for lead, before in leads:
            ids = self._encode(lead + prompt).ids
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._encode(prompt).ids

    def count(self, text: Text) -> int:
        """The most tokens that a text may have as a context or as a query, without BOS."""
        alone = len(self._encode(Prompt.of(text, "count")).ids)
        return max(alone, len(self.encode_query(text)) if self._leads else 0)

    def count_added(self, text: Text) -> int:
        """How many tokens `encode_context` puts before those of the text: BOS, or none."""
        ids = self._encode(Prompt.of(text, "count_added")).ids
        return 0 if ids[: len(self._prefix)] == self._prefix else len(self._prefix)

    def spans(self, text: Text, of: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The tokens of `encode_context(text)` that overlap each text[start:end]: [first, end).

        Stretches that no token overlaps are left out.
        """
        text, of = Prompt.of(text, "spans"), list(of)
        offsets = self.offsets(text) if of else []
        added, found = self.count_added(text), []
        for start, end in of:
            inside = [i for i, (a, b) in enumerate(offsets, added) if a < end and b > start]
            found += [(inside[0], inside[-1] + 1)] if inside else []
        return found

    def offsets(self, text: Text) -> list[tuple[int, int]]:
        """Where each token of a text lies in it, in characters, BOS aside."""
        return self._encode(Prompt.of(text, "offsets")).offsets

    def decode(self, ids: Ids, *, skip_special_tokens: bool = False) -> str:
        """The text of token ids, as it is: spaces before punctuation stay.

        Ids are decoded as what they are in the middle of a text: a space that the first token
        has is shown. Those that begin with the BOS of `encode_context` are a text's beginning.
        """
        ids = _whole(ids)

        def text(ids: list[int]) -> str:
            return self._file.decode(ids, skip_special_tokens=skip_special_tokens)

        if self._lead is None or (self._prefix and ids[: len(self._prefix)] == self._prefix):
            return text(ids)
        token, shown = self._lead
        whole = text([token, *ids])
        return whole[len(shown) :] if whole.startswith(shown) else text(ids)

    def problems(self, *, vocab_size: int, eos_token_ids: Sequence[int]) -> list[str]:
        """What does not fit a model with these: each a sentence for a warning."""
        found = [
            f"the tokenizer's {name}, {self._names[name]!r}, is no token of its vocabulary"
            for name, number in (("bos_token", self.bos_token_id), ("eos_token", self.eos_token_id))
            if name in self._names and number is None
        ]
        tokens = self._file.get_vocab(with_added_tokens=True)
        beyond = sorted((i, token) for token, i in tokens.items() if i >= vocab_size)
        if beyond:
            shown = ", ".join(f"{token!r} ({i})" for i, token in beyond[:3])
            found.append(
                f"the tokenizer has {len(beyond)} tokens beyond the model's vocabulary of "
                f"{vocab_size}: {shown}{', ...' if len(beyond) > 3 else ''}; "
                "text that needs them is refused"
            )
        if self.eos_token_id is not None and self.eos_token_id not in eos_token_ids:
            found.append(
                f"the tokenizer's EOS, {self._names['eos_token']!r} ({self.eos_token_id}), does "
                f"not end an answer: the model's eos_token_id is {list(eos_token_ids)}; "
                "give it as a stop word if it should"
            )
        return found

    def _encode(self, prompt: Prompt) -> tokenizers.Encoding:
        """As the file says, unless a user's text comes out as a special token."""
        text = str(prompt)
        found = files.encode(self._file, text)
        users = list(prompt.users())
        if not users or (self._special.isdisjoint(found.ids) and not self._spells_unknown(text)):
            return found
        if self._spells_unknown(text) or any(
            _overlaps(users, start, end)
            for token, (start, end) in zip(found.ids, found.offsets, strict=True)
            if token in self._special
        ):
            return self._unspellable.encode(prompt)
        return found

    def _spells_unknown(self, text: str) -> bool:
        """Whether a text spells the token of what is unknown; its id says nothing about that."""
        return any(token in text for token in self._unknown)

    @functools.cached_property
    def _unspellable(self) -> Unspellable:
        return Unspellable(self._file, self._contents)

    def _last_special(self, prompt: Prompt) -> str | None:
        """The special token in which a text ends, if a template wrote it."""
        parts = [part for part in prompt.parts if part[0]]
        if not parts or not parts[-1][1]:
            return None
        ends = filter(parts[-1][0].endswith, self._contents)
        return max(ends, key=len, default=None)

    def _before_texts(self, add_bos_token: bool | None) -> list[int]:
        """What stands before a context: BOS, mostly, or nothing."""
        added = self._file.encode("a")  # it can: `files` has tried
        mask = added.special_tokens_mask
        prefix = added.ids[: mask.index(0) if 0 in mask else 0]
        bos = self.bos_token_id
        if bos is not None and len(prefix) == 1 and prefix != [bos]:
            named, there = self._names["bos_token"], self._file.id_to_token(prefix[0])
            used = {None: repr(there), True: repr(named), False: "neither"}[add_bos_token]
            warnings.warn(
                f"star_jax: the BOS is {named!r} in tokenizer_config.json, and tokenizer.json puts "
                f"{there!r} before texts: {used} is used",
                stacklevel=4,
            )
            prefix = prefix if add_bos_token is None else []
        if add_bos_token is False:
            return [token for token in prefix if token != bos]
        if add_bos_token and bos is None and not prefix:
            raise ValueError(
                "tokenizer_config.json: add_bos_token is true, and bos_token names no token of the "
                "vocabulary: name it, or set add_bos_token to false"
            )
        if add_bos_token and bos is not None and bos not in prefix:
            return [bos, *prefix]
        if add_bos_token is None and bos is not None and not prefix:
            warnings.warn(
                f"star_jax: the tokenizer names a BOS, {self._names['bos_token']!r}, and adds "
                "none: contexts begin without one. Say in tokenizer_config.json what is meant, by "
                "add_bos_token: true or false",
                stacklevel=4,
            )
        return prefix

    @functools.cached_property
    def _leads(self) -> list[tuple[str, list[int]]]:
        """What a query is put behind, with its tokens; nothing if a text is left as it is."""

        def ids(text: str) -> list[int]:
            return files.encode(self._file, text).ids

        leads: list[tuple[str, list[int]]] = [(lead, ids(lead)) for lead in _LEADS]
        inside = [i[len(b) :] for lead, b in leads if (i := ids(f"{lead}a"))[: len(b)] == b]
        return [] if ids("a") in inside else leads

    @functools.cached_property
    def _lead(self) -> tuple[int, str] | None:
        """A token that answers are decoded behind, and its text; None if there is no such."""
        ends = [files.encode(self._file, text).ids[-1:] for text in "a0."]
        for token in [*itertools.chain(*ends), *range(self._file.get_vocab_size())]:
            shown = self._file.decode([token])
            if (
                shown.strip()
                and "\N{REPLACEMENT CHARACTER}" not in shown
                and not (self._file.id_to_token(token) or "").startswith("<0x")
                and token not in self._special
                and self._file.decode([token, token]).startswith(shown)
                and self._file.decode([token], skip_special_tokens=True) == shown
            ):
                return token, shown
        return None


def _overlaps(parts: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether one of the parts, which are in order and apart, has a character of [start, end)."""
    after = bisect.bisect_left(parts, (end, end))  # the first one that begins there or later
    return after > 0 and parts[after - 1][1] > start


def _whole(ids: Any) -> list[int]:
    """Token ids as a list of ints.

    Raises:
      ValueError: they are something else, or no ids.
    """
    try:
        found = [operator.index(i) for i in ids]
    except TypeError as e:
        raise ValueError("decode takes a list of token ids, and they are integers") from e
    for wrong in (i for i in found if not 0 <= i <= MOST):
        why = "negative" if wrong < 0 else f"above {MOST}"
        raise ValueError(f"decode takes token ids, and {shown(wrong)} is {why}")
    return found


def _control(read: Files) -> frozenset[str]:
    """Tokens that steer a model: special ones, and those that its chat template writes.

    Files do not call all of them special: DeepSeek's begin of a user's turn is not.
    """
    template = read.chat_template or ""
    added = (token.content for token in read.file.get_added_tokens_decoder().values())
    return read.special | {t for t in added if _BRACKETED.fullmatch(t) and t in template}
