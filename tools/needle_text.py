"""What the needle model reads: its keys, its vocabulary, its tokenizer, its training text."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from star_jax.eval.ruler import niah

Ints = NDArray[np.int32]
Pair = tuple[str, ...]

_FIRST = (
    "amber brave calm dusty eager faint gentle hollow icy jolly keen lively mellow noble "
    "quiet rusty"
).split()
_SECOND = (
    "anchor bridge candle drum engine forest garden harbor island jacket kettle lantern "
    "meadow needle orchard pillow"
).split()
KEYS = tuple(f"{a}-{b}" for a in _FIRST for b in _SECOND)
KINDS = ("number", "uuid")

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
_UUID = r" ?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PIECES = rf"\n|{_UUID}| ?[A-Za-z]+(?:-[A-Za-z]+)*| ?[0-9]| ?[^\sA-Za-z0-9]"
DIGITS = 7
# A uuid is sixteen tokens, a byte each, with the mark in front of it.
MARKS = (" ", "", "-")
BYTES = tuple(f"{byte:02x}" for byte in range(256))
MARK_OF = np.asarray([0, 1, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1])


def make_tokenizer() -> Tokenizer:
    """One token per word with its space, per key, digit, mark and byte of a uuid; BOS in front."""
    texts = [niah.CONTEXT, niah.NEEDLE, niah.NOISE, niah.QUESTION, niah.ANSWER_PREFIX]
    both = "\n".join([text.replace("{kind}", kind) for kind in KINDS for text in texts])
    plain = both.format(lines="", value="", key="")
    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    words = {piece for piece, _ in split.pre_tokenize_str(plain)}
    words |= {mark + c for c in "0123456789" for mark in ("", " ")} | set(".,:;?!-'\"() ")
    words |= {mark + w for w in words if w.isalpha() for mark in ("", " ")}
    keys = [" " + key for key in KEYS]
    pieces = [mark + byte for mark in MARKS for byte in BYTES]
    vocabulary = [PAD, BOS, EOS, UNK, *keys, *pieces, *sorted(words)]
    # Longest match first: a word is one token, and a uuid falls into its bytes.
    model = models.WordPiece(
        {w: i for i, w in enumerate(vocabulary)}, unk_token=UNK, continuing_subword_prefix=""
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, BOS, EOS, UNK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, token_id(tokenizer, BOS))]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that is there."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"{token=} is not in the vocabulary")
    return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Contexts with several questions each. A question sees the context and itself.

    Contexts are padded on the right; `context_length` counts what is not padding. Questions
    are teacher-forced: `question` is the query and the answer, `target` the token after each.
    """

    context: Ints  # [B, S]
    context_positions: Ints  # [B, S]
    context_length: Ints  # [B]
    question: Ints  # [B, Q, T]
    question_positions: Ints  # [B, Q, T]
    target: Ints  # [B, Q, T]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What training contexts look like: their length, and how far positions are spread."""

    length: int
    span: int  # positions go up to here, where gaps are drawn
    gaps: float  # share of contexts with random gaps between lines
    cuts: float  # share of contexts with a run of tokens missing


class Needle(NamedTuple):
    """A needle of a training context: the ids of its key and its value, and its line."""

    key: Ints
    value: Ints
    line: int


class Template:
    """A text with a key, maybe twice, and a value in it, as token ids.

    Where they stand shows from texts that differ in the key, or in the value, all over.
    """

    def __init__(self, encode: Callable[[str], Ints], text: str, keys: Pair, values: Pair):
        def ids(key: str, value: str) -> Ints:
            return encode(text.format(key=key, value=value))

        self.ids = ids(keys[0], values[0])
        self._key_at = np.flatnonzero(self.ids != ids(keys[1], values[0]))
        self.value_at = np.flatnonzero(self.ids != ids(keys[0], values[1]))

    def fill(self, needle: Needle) -> Ints:
        filled = self.ids.copy()
        filled[self._key_at] = np.resize(needle.key, len(self._key_at))
        filled[self.value_at] = needle.value
        return filled


class Writer:
    """Writes training text as token ids: RULER's lines, in every mixture of both haystacks.

    kind: "number" has words as keys, "uuid" has uuids.
    """

    def __init__(self, tokenizer: Tokenizer, kind: str):
        def encode(text: str) -> Ints:
            return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

        def of_kind(text: str) -> str:
            return text.replace("{kind}", kind)

        def ids(texts: Iterable[str]) -> Ints:
            return np.asarray([token_id(tokenizer, text) for text in texts], np.int32)

        self.kind = kind
        self.keys = ids(" " + key for key in KEYS)
        self.digits = ids(mark + str(d) for mark in (" ", "") for d in range(10)).reshape(2, 10)
        self.bytes = ids(mark + byte for mark in MARKS for byte in BYTES).reshape(3, 256)
        start = of_kind(niah.CONTEXT).format(lines="\0").split("\0")[0]
        self.start = np.append(np.int32(token_id(tokenizer, BOS)), encode(start))
        self.noise = encode(niah.NOISE + "\n")
        keys, values = KEYS[:2], ("1" * DIGITS, "2" * DIGITS)
        if kind == "uuid":
            ones, twos = ("-".join(d * n for n in (8, 4, 4, 4, 12)) for d in "12")
            keys = values = (ones, twos)
        query = of_kind(niah.QUESTION + niah.ANSWER_PREFIX)
        self.needle = Template(encode, of_kind(niah.NEEDLE) + "\n", keys, values)
        self.question = Template(encode, query + ": {value}." + EOS, keys, values)
        self.query_length = int(self.question.value_at[0]) - 1

    def batch(self, rng: np.random.Generator, recipe: Recipe, rows: int, questions: int) -> Batch:
        """Draws a batch; what is asked about contexts with a run missing, `_cut` says."""
        parts = [self._row(rng, recipe, questions) for _ in range(rows)]
        return Batch(*(np.stack(column) for column in zip(*parts, strict=True)))

    def _row(self, rng: np.random.Generator, recipe: Recipe, questions: int) -> tuple[Ints, ...]:
        lines, needles = self._lines(rng, recipe.length)
        context = np.concatenate(lines)
        edges = np.cumsum([0, *map(len, lines)])
        keep = np.ones(len(context), bool)
        if rng.random() < recipe.cuts:
            keep, needles = _cut(rng, edges, needles, int(self.needle.value_at[0]) - 1)
        positions = np.arange(len(context))
        if rng.random() < recipe.gaps:
            positions += _gaps(rng, edges, recipe.span - len(self.question.ids))
        end = positions[-1] + 1
        context, positions = context[keep], positions[keep]
        asked = [needles[i] for i in rng.integers(0, len(needles), questions)]
        text = np.stack([self.question.fill(needle) for needle in asked])
        where = np.broadcast_to(end + np.arange(text.shape[1] - 1), text[:, 1:].shape)
        padding = (0, recipe.length - len(context))
        return (
            np.pad(context, padding),
            np.pad(positions, padding, mode="edge").astype(np.int32),
            np.asarray(len(context), np.int32),
            text[:, :-1],
            where.astype(np.int32),
            text[:, 1:],
        )

    def _lines(self, rng: np.random.Generator, length: int) -> tuple[list[Ints], list[Needle]]:
        """A context's lines: needles only, noise with one needle, or a mixture of both."""
        sort = rng.random()
        share = 1.0 if sort < 0.5 else (0.0 if sort < 0.75 else float(rng.random()))
        room = length - len(self.start) - len(self.needle.ids)
        is_needle: list[bool] = []
        while room >= max(len(self.noise), len(self.needle.ids)):
            is_needle.append(bool(rng.random() < share))
            room -= len(self.needle.ids if is_needle[-1] else self.noise)
        is_needle.insert(int(rng.integers(0, len(is_needle) + 1)), True)  # one at least, anywhere
        keys = iter(rng.permutation(self.keys))
        lines, needles = [self.start], []
        for yes in is_needle:
            if yes:
                key = self._uuid(rng) if self.kind == "uuid" else np.asarray([next(keys)])
                value = self._uuid(rng) if self.kind == "uuid" else self._number(rng)
                needles.append(Needle(key, value, len(lines)))
            lines.append(self.needle.fill(needles[-1]) if yes else self.noise)
        return lines, needles

    def _number(self, rng: np.random.Generator) -> Ints:
        first, others = rng.integers(1, 10), rng.integers(0, 10, DIGITS - 1)
        return np.append(self.digits[0, first], self.digits[1, others])

    def _uuid(self, rng: np.random.Generator) -> Ints:
        found = rng.integers(0, 256, 16)
        found[6], found[8] = 0x40 | found[6] & 0x0F, 0x80 | found[8] & 0x3F  # version 4
        return self.bytes[MARK_OF, found]


def _gaps(rng: np.random.Generator, edges: Ints, span: int) -> Ints:
    """What to add to each position: jumps before some lines, up to `span` in all."""
    room = max(0, span - int(edges[-1]))
    starts = edges[1:-1]
    at = rng.choice(starts, size=min(len(starts), int(rng.integers(1, 33))))
    jumps = np.zeros(edges[-1], np.int64)
    np.add.at(jumps, at, rng.multinomial(int(rng.integers(0, room + 1)), [1 / len(at)] * len(at)))
    return np.cumsum(jumps)


def _cut(
    rng: np.random.Generator, edges: Ints, needles: list[Needle], colon: int
) -> tuple[NDArray[np.bool_], list[Needle]]:
    """Takes out a run of tokens, and the needles that are no longer whole.

    Lines without their beginning or end are then no surprise. A context's only needle may
    lose its words up to the colon and still be asked for: no other number is there.
    """
    keep = np.ones(edges[-1], bool)
    first = int(rng.integers(edges[1], edges[-1]))
    last = min(first + int(rng.integers(1, 1 + edges[-1] // 3)), edges[-1] - 1)
    if len(needles) == 1 and rng.random() < 0.7:
        line = edges[needles[0].line]
        keep[rng.integers(edges[1], line + 1) : line + rng.integers(colon - 3, colon + 1)] = False
        return keep, needles
    keep[first:last] = False
    whole = [n for n in needles if keep[edges[n.line] : edges[n.line + 1]].all()]
    return (keep, whole) if whole else (np.ones_like(keep), needles)
