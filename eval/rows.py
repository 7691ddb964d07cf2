"""The rows of a result: the kinds of attention that a configuration asks for, with their sizes."""

import dataclasses
import itertools
import re
from typing import Any

from star_jax.eval.lists import items
from star_jax.eval.settings import AttentionConfig, CacheConfig
from star_jax.prefill.anchors import CONTENTS, POSITIONS, OtherAnchor
from star_jax.prefill.correction import CORRECTIONS
from star_jax.prefill.keeping import Keep
from star_jax.prefill.kinds import BASELINES, KINDS, Kind
from star_jax.prefill.star import Star
from star_jax.prefill.streaming import Streaming
from star_jax.runs import limits

_LONGEST = 40  # characters of a size
_SOME_LENGTHS = tuple(2**n for n in range(24, 6, -1))  # any L, where only the questions tell
NONE = "none"  # of corrections
MODELS_OWN = "model"  # the dtype of a cache that is not compressed

# What each kind reads; exact attention reads nothing.
FIELDS: dict[str, tuple[str, ...]] = {
    Star.name: ("block_size", "anchor_size", "halo", "anchor_content", "correction", "stride"),
    Streaming.name: ("sinks", "window"),
}
SIZES = {"block_size", "anchor_size", "halo", "sinks", "window"}  # which may be parts of a length


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to encode contexts and to keep them: a row of the result.

    keep: the share of the keys that is kept; None: all. cache_dtype: of what is kept; None: the
    model's.
    """

    attention: Kind
    keep: Keep | None = None
    cache_dtype: str | None = None

    @property
    def name(self) -> str:
        """Its kind, sizes by the letters that they begin with, share, dtype: star_b64_a8_int8."""
        share = None if self.keep is None else self.keep.label
        return "_".join(filter(None, (self.attention.label, share, self.cache_dtype)))

    @property
    def is_exact(self) -> bool:
        """Whether others are compared with it: exact attention over what was not compressed."""
        return self.attention.is_exact and self.cache_dtype is None


def fields(attention: AttentionConfig) -> list[str]:
    """The fields that the rows depend on, beside the kinds."""
    kinds = items("attention.kind", attention.kind)
    return [field for kind in kinds for field in FIELDS.get(kind, ())]


def needs_length(attention: AttentionConfig) -> bool:
    """Whether a size is a part of the length."""
    sizes = [field for field in fields(attention) if field in SIZES]
    return any("L" in one for name in sizes for one in _items(attention, name))


def rows(
    attention: AttentionConfig, length: int | None, cache: CacheConfig | None = None
) -> tuple[Row, ...]:
    """The rows at a length; `L` in sizes stands for it. Rows that come out the same are one."""
    keeps = _keeps(cache or CacheConfig())
    dtypes = items("cache.dtype", (cache or CacheConfig()).dtype)
    caches = [None if dtype == MODELS_OWN else dtype for dtype in dtypes]
    found: dict[Row, None] = {}
    for name in items("attention.kind", attention.kind):
        if name == Star.name:
            kinds = _star(attention, length)
        elif name == Streaming.name:
            kinds = _streaming(attention, length)
        else:
            kinds = [KINDS[name]()]
        found |= dict.fromkeys(
            Row(kind, keep, dtype)
            for kind in kinds
            for keep in (keeps if kind.has_blocks else [None])
            for dtype in caches
        )
    return tuple(found)


def rows_at(attention: AttentionConfig, length: int | None, cache: CacheConfig) -> tuple[Row, ...]:
    """The rows at a length; where only the questions tell it, at any where the sizes can be.

    Raises:
      ValueError: they can be at none.
    """
    refused: ValueError | None = None
    for some in _SOME_LENGTHS if length is None else (length,):
        try:
            return rows(attention, some, cache)
        except ValueError as e:
            refused = refused or e
    raise refused or ValueError(f"{attention=}")


def only_row(attention: AttentionConfig, length: int | None, cache: CacheConfig, *, of: str) -> Row:
    """The one row of a configuration, for a command that answers in one way; `of` names it.

    Raises:
      ValueError: there are several, or it is a baseline.
    """
    found = rows(attention, length, cache)
    if len(found) > 1:
        names = ", ".join(row.name for row in found)
        raise ValueError(
            f"attention and cache say {len(found)} ways ({names}), and {of} has one: "
            "--config.attention.kind=star, and one size each"
        )
    (row,) = found
    if row.attention.name in BASELINES:
        raise ValueError(f"attention {row.name} is to compare with: use star or an exact kind")
    return row


def _keeps(cache: CacheConfig) -> list[Keep | None]:
    """Each share of keys with each criterion; one row keeps all of them."""
    found: list[Keep | None] = []
    for text in items("cache.keep", cache.keep):
        try:
            share = float(text)
        except ValueError:
            raise ValueError(f"cache.keep={text!r} must be a number above 0, at most 1") from None
        for criterion in items("cache.criterion", cache.criterion):
            try:
                keep = Keep(share=share, criterion=criterion)
            except ValueError as e:
                raise ValueError(f"cache.keep={text!r}, cache.criterion={criterion!r}: {e}") from e
            found.append(None if keep.share == 1 else keep)
    return found


def _items(attention: AttentionConfig, name: str) -> tuple[str, ...]:
    return items(f"attention.{name}", getattr(attention, name))


def _star(attention: AttentionConfig, length: int | None) -> list[Kind]:
    """Each of the sizes, with each of the corrections and each of the anchors."""
    found: list[Kind] = []
    lists = (_items(attention, name) for name in ("block_size", "anchor_size", "halo"))
    mending, anchors = _mending(attention), _anchors(attention)
    for block, anchor, halo in itertools.product(*lists):
        b, a, h = _sizes(block, anchor, halo, length)
        for content, at in anchors:
            if a and (content, at) != ("first", "first"):
                other = OtherAnchor(block_size=b, anchor_size=a, content=content, positions=at)
                found.append(other)
            else:  # without an anchor, whatever others are to be
                found += [Star(block_size=b, anchor_size=a, halo=h, **how) for how in mending]
    if ("first", "first") not in anchors and not any("content" in kind.mending for kind in found):
        raise ValueError(
            f"attention.anchor_size={attention.anchor_size!r} leaves no anchor whose content "
            f"attention.anchor_content={attention.anchor_content!r} could be"
        )
    return found


def _anchors(attention: AttentionConfig) -> list[tuple[str, str]]:
    """Contents and positions of anchors: "first", or "first@random"."""
    found = []
    for text in _items(attention, "anchor_content"):
        content, _, positions = text.partition("@")
        if content not in CONTENTS or (positions or "first") not in POSITIONS:
            raise ValueError(
                f"attention.anchor_content={text!r} is unknown: use {', '.join(CONTENTS)}, "
                f"each also with @{' or @'.join(POSITIONS)}"
            )
        found.append((content, positions or "first"))
    return found


def _mending(attention: AttentionConfig) -> list[dict[str, Any]]:
    """The corrections, each with each of the strides; without one these say nothing."""
    strides = [(text, _size("attention.stride", text)) for text in _items(attention, "stride")]
    for text, stride in strides:
        if stride < 1:
            raise ValueError(f"attention.stride={text!r} must be at least 1")
    found: list[dict[str, Any]] = []
    for correction in _items(attention, "correction"):
        if correction == NONE:
            found.append({})
        elif correction in CORRECTIONS:
            found += [{"correction": correction, "stride": stride} for _, stride in strides]
        else:
            known = ", ".join((NONE, *CORRECTIONS))
            raise ValueError(f"attention.correction={correction!r} is unknown: use {known}")
    return found


def _streaming(attention: AttentionConfig, length: int | None) -> list[Kind]:
    found: list[Kind] = []
    lists = (_items(attention, name) for name in ("sinks", "window"))
    for sinks, window in itertools.product(*lists):
        s = _size("attention.sinks", sinks, L=length)
        w = _size("attention.window", window, L=length)
        if s < 0 or w < 1:
            raise ValueError(
                f"attention.sinks={sinks!r} is {s} tokens and attention.window={window!r} {w}: "
                "they must be at least 0 and 1"
            )
        if max(s, w) > limits.MOST_POSITIONS:
            raise ValueError(
                f"attention.sinks={sinks!r} or attention.window={window!r} is above "
                f"{limits.MOST_POSITIONS} tokens"
            )
        found.append(Streaming(sinks=s, window=w))
    return found


def _sizes(block: str, anchor: str, halo: str, length: int | None) -> tuple[int, int, int]:
    """Of block, anchor and halo, in tokens."""
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
    return b, a, h


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
