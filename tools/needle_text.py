"""What the needle model reads: its keys, its vocabulary, its tokenizer, its training text."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from star_jax.eval.ruler import niah

Ints = NDArray[np.int32]

_FIRST = (
    "amber brave calm dusty eager faint gentle hollow icy jolly keen lively mellow noble "
    "quiet rusty"
).split()
_SECOND = (
    "anchor bridge candle drum engine forest garden harbor island jacket kettle lantern "
    "meadow needle orchard pillow"
).split()
KEYS = tuple(f"{a}-{b}" for a in _FIRST for b in _SECOND)

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
_PIECES = r"\n| ?[A-Za-z]+(?:-[A-Za-z]+)*| ?[0-9]| ?[^\sA-Za-z0-9]"
DIGITS = 7
COLON = 9  # where it stands in a needle's line, in tokens


def make_tokenizer() -> Tokenizer:
    """One token per word with its space, per key, per digit, per mark; BOS in front."""
    texts = [niah.CONTEXT, niah.NEEDLE, niah.NOISE, niah.QUESTION, niah.ANSWER_PREFIX]
    plain = "\n".join(texts).format(kind="number", lines="", value="", key="")
    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    words = {piece for piece, _ in split.pre_tokenize_str(plain)}
    words |= {mark + c for c in "0123456789" for mark in ("", " ")} | set(".,:;?!-'\"() ")
    words |= {mark + w for w in words if w.isalpha() for mark in ("", " ")}
    keys = [" " + key for key in KEYS]
    vocabulary = [PAD, BOS, EOS, UNK, *keys, *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token=UNK))
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
    """A needle of a training context: the ids of its key and its number, and its line."""

    key: int
    number: Ints
    line: int


class Writer:
    """Writes training text as token ids: RULER's lines, in every mixture of both haystacks."""

    def __init__(self, tokenizer: Tokenizer):
        def encode(text: str) -> Ints:
            return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

        self.keys = np.asarray([token_id(tokenizer, " " + key) for key in KEYS], np.int32)
        self.first_digits = np.asarray([token_id(tokenizer, f" {d}") for d in range(10)])
        self.digits = np.asarray([token_id(tokenizer, str(d)) for d in range(10)])
        start, _ = niah.CONTEXT.format(kind="number", lines="\0").split("\0")
        bos, eos = token_id(tokenizer, BOS), token_id(tokenizer, EOS)
        self.start = np.append(np.int32(bos), encode(start))
        self.noise = encode(niah.NOISE + "\n")
        key, value = KEYS[0], "1000000"
        self.needle = encode(niah.NEEDLE.format(kind="number", key=key, value=value) + "\n")
        query = (niah.QUESTION + niah.ANSWER_PREFIX).format(kind="number", key=key)
        self.query_length = len(encode(query))
        self.question = np.append(encode(query + f": {value}."), np.int32(eos))

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
            keep, needles = _cut(rng, edges, needles)
        positions = np.arange(len(context))
        if rng.random() < recipe.gaps:
            positions += _gaps(rng, edges, recipe.span - len(self.question))
        end = positions[-1] + 1
        context, positions = context[keep], positions[keep]
        asked = [needles[i] for i in rng.integers(0, len(needles), questions)]
        text = np.stack([self._fill(self.question, needle) for needle in asked])
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
        kind = rng.random()
        share = 1.0 if kind < 0.5 else (0.0 if kind < 0.75 else float(rng.random()))
        room = length - len(self.start) - len(self.needle)
        is_needle: list[bool] = []
        while room >= len(self.noise):
            is_needle.append(bool(rng.random() < share))
            room -= len(self.needle if is_needle[-1] else self.noise)
        is_needle.insert(int(rng.integers(0, len(is_needle) + 1)), True)  # one at least, anywhere
        keys = iter(rng.permutation(self.keys))
        lines, needles = [self.start], []
        for yes in is_needle:
            if yes:
                needles.append(Needle(int(next(keys)), _number(rng), len(lines)))
            lines.append(self._fill(self.needle, needles[-1]) if yes else self.noise)
        return lines, needles

    def _fill(self, text: Ints, needle: Needle) -> Ints:
        """A line or a question with its own key and number."""
        filled = np.where(text == self.keys[0], needle.key, text)
        (value_at,) = np.flatnonzero(text == self.first_digits[1])
        filled[value_at] = self.first_digits[needle.number[0]]
        filled[value_at + 1 : value_at + DIGITS] = self.digits[needle.number[1:]]
        return filled.astype(np.int32)


def _number(rng: np.random.Generator) -> Ints:
    return np.append(rng.integers(1, 10), rng.integers(0, 10, DIGITS - 1))


def _gaps(rng: np.random.Generator, edges: Ints, span: int) -> Ints:
    """What to add to each position: jumps before some lines, up to `span` in all."""
    room = max(0, span - int(edges[-1]))
    starts = edges[1:-1]
    at = rng.choice(starts, size=min(len(starts), int(rng.integers(1, 33))))
    jumps = np.zeros(edges[-1], np.int64)
    np.add.at(jumps, at, rng.multinomial(int(rng.integers(0, room + 1)), [1 / len(at)] * len(at)))
    return np.cumsum(jumps)


def _cut(
    rng: np.random.Generator, edges: Ints, needles: list[Needle]
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
        keep[rng.integers(edges[1], line + 1) : line + rng.integers(COLON - 3, COLON + 1)] = False
        return keep, needles
    keep[first:last] = False
    whole = [n for n in needles if keep[edges[n.line] : edges[n.line + 1]].all()]
    return (keep, whole) if whole else (np.ones_like(keep), needles)
