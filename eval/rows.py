"""The rows of a result: the kinds of attention that a configuration asks for, with their sizes."""

import dataclasses
import itertools
import re
from typing import Any

from star_jax.eval.lists import items
from star_jax.eval.settings import AttentionConfig
from star_jax.prefill.correction import CORRECTIONS
from star_jax.prefill.kinds import KINDS, Kind
from star_jax.runs import limits

_LONGEST = 40  # characters of a size
SOME_LENGTH = 2**24  # stands for L where only the questions tell
SIZES = ("block_size", "anchor_size", "halo")
MENDING = ("correction", "stride")
NONE = "none"  # of corrections


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to encode contexts: a row of the result."""

    attention: Kind

    @property
    def name(self) -> str:
        """Its kind, and its sizes by the letters that they begin with: star_b1024_a512."""
        return self.attention.label


def rows(attention: AttentionConfig, length: int | None) -> tuple[Row, ...]:
    """The rows at a length; `L` in sizes stands for it. Rows that come out the same are one."""
    found: dict[Row, None] = {}
    for name in items("attention.kind", attention.kind):
        if KINDS[name].is_exact:
            found[Row(KINDS[name]())] = None
            continue
        sizes = itertools.product(*(items(f"attention.{s}", getattr(attention, s)) for s in SIZES))
        for size, how in itertools.product(sizes, _mending(attention)):
            found[Row(KINDS[name](**_sizes(size, length), **how))] = None
    return tuple(found)


def _mending(attention: AttentionConfig) -> list[dict[str, Any]]:
    """The corrections, each with each of the strides; without one these say nothing."""
    strides = [
        (text, _size("attention.stride", text))
        for text in items("attention.stride", attention.stride)
    ]
    for text, stride in strides:
        if stride < 1:
            raise ValueError(f"attention.stride={text!r} must be at least 1")
    found: list[dict[str, Any]] = []
    for correction in items("attention.correction", attention.correction):
        if correction == NONE:
            found.append({})
        elif correction in CORRECTIONS:
            found += [{"correction": correction, "stride": stride} for _, stride in strides]
        else:
            known = ", ".join((NONE, *CORRECTIONS))
            raise ValueError(f"attention.correction={correction!r} is unknown: use {known}")
    return found


def has_sizes(attention: AttentionConfig) -> bool:
    """Whether any of the kinds has them."""
    return not all(KINDS[name].is_exact for name in items("attention.kind", attention.kind))


def needs_length(attention: AttentionConfig) -> bool:
    """Whether a size is a part of the length."""
    sizes = SIZES if has_sizes(attention) else ()
    found = (items(name, getattr(attention, name)) for name in sizes)
    return any("L" in size for each in found for size in each)


def _sizes(sizes: tuple[str, ...], length: int | None) -> dict[str, int]:
    block, anchor, halo = sizes
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
    h = _size("attention.halo", halo, L=length, b=b)
    if not 0 <= h <= b:
        raise ValueError(
            f"attention.halo={halo!r} is {h} tokens{at}: it must be from 0 (none) to the {b} of "
            f"attention.block_size={block!r}, since the halo is taken from one block"
        )
    return {"block_size": b, "anchor_size": a, "halo": h}


def _size(field: str, text: str, **known: int | None) -> int:
    """A size: `1024`, or a part of something known, `L/4` or `3b/4`, rounded down."""
    if len(text) > _LONGEST:  # of many more digits Python makes no number
        raise ValueError(f"{field}={text[:_LONGEST]!r}... is too long for a size")
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    match = re.fullmatch(r"([1-9][0-9]*)?([Lb])(?:/([1-9][0-9]*))?", text)
    if not match or match[2] not in known:
        parts = "".join(f", or {name}/4" for name in known)
        raise ValueError(f"{field}={text!r} is not a size: give tokens, like 1024{parts}")
    whole = known[match[2]]
    if whole is None:
        raise ValueError(f"{field}={text!r} needs data.lengths, which says what L is")
    return int(match[1] or 1) * whole // int(match[3] or 1)
