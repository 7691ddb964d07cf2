"""The rows of a result: the kinds of attention that a configuration asks for, with their sizes."""

import dataclasses
import re

from star_jax.eval.lists import items
from star_jax.eval.settings import AttentionConfig
from star_jax.prefill.kinds import KINDS, Kind
from star_jax.runs import limits

_LONGEST = 40  # characters of a size
SOME_LENGTH = 2**24  # stands for L where only the questions tell


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to encode contexts: a row of the result."""

    attention: Kind

    @property
    def name(self) -> str:
        """Its kind, and its sizes by the letters that they begin with: star_b1024_a512."""
        sizes = self.attention.sizes.items()
        return "_".join([self.attention.name, *(f"{name[0]}{size}" for name, size in sizes)])


def rows(attention: AttentionConfig, length: int | None) -> tuple[Row, ...]:
    """The rows at a length; `L` in sizes stands for it. Rows that come out the same are one."""
    found: dict[Row, None] = {}
    for name in items("attention.kind", attention.kind):
        if KINDS[name].is_exact:
            found[Row(KINDS[name]())] = None
            continue
        for block in items("attention.block_size", attention.block_size):
            for anchor in items("attention.anchor_size", attention.anchor_size):
                sizes = _sizes(block, anchor, length)
                found[Row(KINDS[name](**sizes))] = None
    return tuple(found)


def has_sizes(attention: AttentionConfig) -> bool:
    """Whether any of the kinds has them."""
    return not all(KINDS[name].is_exact for name in items("attention.kind", attention.kind))


def needs_length(attention: AttentionConfig) -> bool:
    """Whether a size is a part of the length."""
    sizes = ("block_size", "anchor_size") if has_sizes(attention) else ()
    found = (items(name, getattr(attention, name)) for name in sizes)
    return any("L" in size for each in found for size in each)


def _sizes(block: str, anchor: str, length: int | None) -> dict[str, int]:
    at = "" if length is None else f" at length {length}"
    b = _size("attention.block_size", block, L=length)
    if b < 1:
        raise ValueError(f"attention.block_size={block!r} is {b} tokens{at}: it must be above 0")
    if b > limits.MOST_POSITIONS:
        raise ValueError(f"attention.block_size={block!r} is above {limits.MOST_POSITIONS} tokens")
    a = _size("attention.anchor_size", anchor, L=length, b=b)
    if a < 0:
        raise ValueError(f"attention.anchor_size={anchor!r} is {a}: it must be at least 0 (none)")
    if a > b:
        raise ValueError(
            f"attention.anchor_size={anchor!r} is {a} tokens, above the {b} tokens of "
            f"attention.block_size={block!r}{at}: the anchor is taken from the first block"
        )
    return {"block_size": b, "anchor_size": a}


def _size(field: str, text: str, **known: int | None) -> int:
    """A size: `1024`, or a part of something known, `L/4`, rounded down."""
    if len(text) > _LONGEST:  # of many more digits Python makes no number
        raise ValueError(f"{field}={text[:_LONGEST]!r}... is too long for a size")
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    match = re.fullmatch(r"([Lb])(?:/([1-9][0-9]*))?", text)
    if not match or match[1] not in known:
        parts = " or ".join(f"{name}/4" for name in known)
        raise ValueError(f"{field}={text!r} is not a size: give tokens, like 1024, or {parts}")
    whole = known[match[1]]
    if whole is None:
        raise ValueError(f"{field}={text!r} needs data.lengths, which says what L is")
    return whole // int(match[2] or 1)
