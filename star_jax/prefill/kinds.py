"""The kinds of attention: how contexts are encoded. Each is one object; all are in one registry."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from jax.sharding import Mesh

from star_jax.cache.sharded import Cache, Shards
from star_jax.models import Decoder, DecoderConfig
from star_jax.prefill.anchors import OtherAnchor
from star_jax.prefill.dense import Dense
from star_jax.prefill.ring import Ring
from star_jax.prefill.star import Star
from star_jax.prefill.steps import Steps
from star_jax.prefill.streaming import Streaming
from star_jax.prefill.ulysses import Ulysses
from star_jax.runtime.runtime import Runtime
from star_jax.sizes import shown


@runtime_checkable
class Kind(Hashable, Protocol):
    """How contexts are encoded. It is frozen: programs are kept by kind.

    name: what configurations and reports call it. is_exact: it is causal attention, and has no
    sizes. has_blocks: a share of the keys of each block can be kept, see `Keep`.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool]
    has_blocks: ClassVar[bool]

    @property
    def sizes(self) -> dict[str, int]:
        """In tokens, by the names that its constructor has for them."""
        ...

    @property
    def mending(self) -> dict[str, int | str]:
        """What else its constructor was given that changes what it computes."""
        ...

    @property
    def label(self) -> str:
        """Its name, with sizes and all by the letters that they begin with: star_b1024_a512."""
        ...

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """Raises ValueError or NotImplementedError if it cannot encode for this model here."""
        ...

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """What would be better, where contexts have these lengths: a warning each."""
        ...

    def asking(self, query: Sequence[int]) -> "Kind | None":
        """The kind that encodes a context for this question; None: one context serves them all."""
        ...

    def deal(self, length: int, devices: int) -> tuple[Shards, int]:
        """How contexts of at most `length` tokens lie on so many devices of `context`.

        Also how many keys each of them has room for.
        """
        ...

    def encode(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        runtime: Runtime,
    ) -> Steps:
        """Encodes one context per row, of any lengths; their number fits the mesh's `data`."""
        ...

    def extend(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        cache: Cache,
        shards: Shards,
        encoded: int,
        runtime: Runtime,
    ) -> Steps:
        """As `encode`, where the first `encoded` tokens of all rows are in a cache already."""
        ...


KINDS: dict[str, type[Any]] = {kind.name: kind for kind in (Dense, Ring, Ulysses, Star)}
# To compare with: what a paper's tables need, and nobody serves.
BASELINES: dict[str, type[Any]] = {kind.name: kind for kind in (OtherAnchor, Streaming)}


def check_kind(attention: object) -> None:
    """Raises ValueError for what is no kind of attention."""
    if not isinstance(attention, (*KINDS.values(), *BASELINES.values())):
        raise ValueError(
            f"attention={shown(attention)} must be Star(...), Ring(), Ulysses() or Dense()"
        )


def fields(attention: Kind) -> dict[str, Any] | None:
    """What `of_fields` makes it of again; None for a baseline."""
    if attention.name not in KINDS:
        return None
    return {"name": attention.name, **attention.sizes, **attention.mending}


def of_fields(fields: dict[str, Any]) -> Kind:
    """The kind of attention that a file tells of.

    Raises:
      ValueError: it is none.
    """
    name = fields.get("name")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"attention={shown(fields)} is none of {', '.join(KINDS)}")
    given = {key: value for key, value in fields.items() if key != "name"}
    try:
        return KINDS[name](**given)
    except TypeError as e:
        raise ValueError(f"attention={shown(fields)}: {e}") from e
