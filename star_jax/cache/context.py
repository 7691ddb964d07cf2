"""An encoded context: what phase 1 returns, and phase 2 asks."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax.cache import digest as digest_lib
from star_jax.cache import writing
from star_jax.cache.group import Group
from star_jax.checkpoint.fingerprint import Fingerprint
from star_jax.sizes import whole

Asked = TypeVar("Asked", bound="Encoded")  # methods return what they are called on

SHOWN = 8  # rows of a batch whose lengths its `repr` tells


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """What phase 1 returns: a `Context`, or a `ContextBatch`. Asking it changes nothing.

    It is equal to itself alone: arrays are not compared.
    """

    is_batch: ClassVar[bool]

    tokens: list[list[int]]  # one list per row
    groups: tuple[Group, ...]
    mesh: Mesh
    fingerprint: Fingerprint
    encoding: dict[str, Any] | None  # `kinds.fields` of what encoded it; None of a baseline

    def __repr__(self) -> str:
        lengths = [str(len(row)) for row in self.tokens[:SHOWN]]
        more = ", ..." if len(self.tokens) > SHOWN else ""
        rows = f"{len(self.tokens)} rows of " if self.is_batch else ""
        made = self.fingerprint
        axes = " ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        return (
            f"{type(self).__name__}({rows}{', '.join(lengths)}{more} tokens, {made.attention}, "
            f"{made.dtype}{f', cache {made.cache}' if made.cache else ''}, mesh {axes})"
        )

    def check(self, mesh: Mesh, fingerprint: Fingerprint) -> None:
        """Raises ValueError if an engine with this mesh and fingerprint may not ask."""
        if self.mesh != mesh:
            raise ValueError("the context was encoded on another mesh than this engine's")
        if differences := self.fingerprint.differences(fingerprint):
            raise ValueError(
                "the context was encoded by another model than this engine's: "
                f"{'; '.join(differences)}; encode it with this engine"
            )

    @property
    def has_turns(self) -> bool:
        """Whether questions and answers were added since phase 1."""
        return any(group.cache.turns is not None for group in self.groups)

    @functools.cached_property
    def hashed(self) -> list[Any]:
        """A hash of the tokens of each row, to be copied and to go on with: see `token_bytes`."""
        return [hashlib.blake2b(token_bytes(row), digest_size=8) for row in self.tokens]

    def prefix(self: Asked, length: int | np.integer) -> Asked:
        """The context of the first `length` tokens of each row, as if no more were encoded.

        (In 8 bits it differs by what rounds otherwise: keys have scales in common with later ones.)
        It shares the keys and values; nothing is computed. Shorter rows stay whole.
        """
        return self.cut(whole("length", length))

    def longest_prefix(self, length: int) -> int:
        """The longest that `prefix` can cut all rows to, if not `length`: of some keys, blocks."""
        return min(
            group.shards.longest(length, encoded)
            for group in self.groups
            for encoded in group.encoded
        )

    def cut(self: Asked, length: int | np.integer) -> Asked:
        """`prefix`, but `length` may be 0: a query then attends to its own tokens alone."""
        return dataclasses.replace(
            self,
            tokens=[row[:length] for row in self.tokens],
            groups=tuple(group.cut([int(length)] * len(group.rows)) for group in self.groups),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a new directory, for `Engine.load_context`: on any mesh, of this model.

        All processes must call it, and see the same directory. A context that was saved there
        before is replaced when the new one is whole. Earlier turns of a dialogue are saved too.

        Raises:
          ValueError: something else is there already, or there is no directory to put it in.
          NotImplementedError: a baseline encoded it, it keeps some of its keys only, or its mesh is
            not of all processes.
          OSError: it cannot be written; then nothing is left of it.
        """
        self.write(path, self.hashes)

    def hashes(self) -> list[str]:
        """What tells the keys and values of each group from others, as files keep it."""
        heads = self.fingerprint.config.num_kv_heads
        return [
            digest_lib.of_group(group, num_kv_heads=heads, encoding=self.encoding)
            for group in self.groups
        ]

    def check_saves(self) -> None:
        """Raises NotImplementedError if it cannot be saved."""
        if self.encoding is None:
            raise NotImplementedError(f"a context of {self.fingerprint.attention} cannot be saved")
        writing.check(self.groups, self.mesh)

    def write(self, path: str | os.PathLike[str], hashes: Callable[[], list[str]]) -> None:
        """`save`, where `hashes` may be known; keys and values may lie in host memory."""
        self.check_saves()
        about = {
            "batch": self.is_batch,
            "attention": self.encoding,
            "fingerprint": self.fingerprint.fields(),
        }
        writing.save(path, self.tokens, self.groups, about=about, mesh=self.mesh, digests=hashes)

    def block_until_ready(self: Asked) -> Asked:
        """Waits until phase 1 has run."""
        jax.block_until_ready([group.cache for group in self.groups])
        return self


class Context(Encoded):
    """One encoded context. Ask it as often as you like."""

    is_batch = False


class ContextBatch(Encoded):
    """A batch of encoded contexts: what is asked of it gives a list, with one for each."""

    is_batch = True


def token_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as they are hashed."""
    return np.asarray(ids, "<i8").tobytes()
