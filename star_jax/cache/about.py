"""What context.json says of a saved context, checked before it is believed."""

import dataclasses
import itertools
from typing import Any

from star_jax.cache.sharded import Shards
from star_jax.json_files import shown
from star_jax.sizes import MOST

ABOUT = "context.json"
KEYS = "keys"  # the Orbax checkpoint
FORMAT = 1  # of both


class Torn(ValueError):
    """A saved context that cannot be read, or is another model's."""


@dataclasses.dataclass(frozen=True)
class GroupAbout:
    """Rows that were encoded together, and how their keys lie on disk; see `context.Group`."""

    rows: tuple[int, ...]
    encoded: list[int]
    starts: tuple[tuple[int, ...], ...]
    size: int
    turns: bool

    @property
    def shards(self) -> Shards:
        return Shards(self.starts, self.size)

    def rest(self, length: int, row: int) -> int:
        """How many of a row's tokens are of turns."""
        return length - self.encoded[row]

    @classmethod
    def of(cls, fields: object, lengths: list[int]) -> "GroupAbout":
        found = _fields("groups", fields, cls)
        rows, encoded = _numbers("rows", found["rows"]), _numbers("encoded", found["encoded"])
        (size,) = _numbers("size", [found["size"]])
        if size == 0:
            raise _wrong("size", size)
        if not isinstance(found["turns"], bool):
            raise _wrong("turns", found["turns"])
        if not isinstance(found["starts"], list):
            raise _wrong("starts", found["starts"])
        starts = [_numbers("starts", mine) for mine in found["starts"]]
        chunks = sorted(itertools.chain.from_iterable(starts))
        if (
            not chunks
            or chunks != [i * size for i in range(len(chunks))]
            or any(mine != sorted(mine) or len(mine) != len(starts[0]) for mine in starts)
        ):
            raise _wrong("starts", found["starts"])
        if not rows or len(encoded) != len(rows) or max(rows) >= len(lengths):
            raise _wrong("rows", rows)
        for row, n in zip(rows, encoded, strict=True):
            if (
                n > lengths[row]
                or n > len(chunks) * size
                or (n < lengths[row] and not found["turns"])
            ):
                raise _wrong("encoded", encoded)
        return cls(tuple(rows), encoded, tuple(map(tuple, starts)), size, found["turns"])


@dataclasses.dataclass(frozen=True)
class About:
    """What context.json says.

    lengths: of each row's tokens. attention: `kinds.fields` of what encoded them; fingerprint: of
    the model. digests: see `digest.of_group`.
    """

    lengths: list[int]
    is_batch: bool
    attention: dict[str, Any]
    fingerprint: dict[str, Any]
    groups: list[GroupAbout]
    digests: list[str]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "About":
        """Raises Torn where the fields are not what `save` writes."""
        if fields.get("format") != FORMAT:
            raise Torn(
                f"context.json: format is {shown(fields.get('format'))}, and this version of "
                f"star_jax reads {FORMAT}"
            )
        names = ("batch", "lengths", "attention", "fingerprint", "groups", "digests")
        if missing := [name for name in names if name not in fields]:
            raise Torn(f"context.json: {', '.join(missing)} not there")
        lengths, groups = _numbers("lengths", fields["lengths"]), fields["groups"]
        if not isinstance(fields["batch"], bool) or not (fields["batch"] or len(lengths) == 1):
            raise _wrong("batch", fields["batch"])
        if not isinstance(groups, list):
            raise _wrong("groups", groups)
        told = [GroupAbout.of(group, lengths) for group in groups]
        rows = sorted(itertools.chain.from_iterable(group.rows for group in told))
        if not lengths or rows != list(range(len(lengths))):
            raise _wrong("rows", rows)
        fingerprint = fields["fingerprint"]
        if not isinstance(fingerprint, dict) or not all(
            isinstance(fingerprint.get(name, 0), str | None) for name in ("tokenizer", "cache")
        ):
            raise _wrong("fingerprint", fingerprint)
        attention = fields["attention"]
        if not isinstance(attention, dict):
            raise _wrong("attention", attention)
        digests = fields["digests"]
        if not isinstance(digests, list) or len(digests) != len(told):
            raise _wrong("digests", digests)
        return cls(lengths, fields["batch"], attention, fingerprint, told, digests)


def _fields(name: str, value: object, of: type) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(of)}
    if not isinstance(value, dict) or value.keys() != expected:
        raise _wrong(name, value)
    return value


def _numbers(name: str, value: object) -> list[int]:
    if not isinstance(value, list) or not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MOST for n in value
    ):
        raise _wrong(name, value)
    return value


def _wrong(name: str, value: object) -> Torn:
    return Torn(f"context.json: {name}={shown(value)} is not what star_jax writes")
