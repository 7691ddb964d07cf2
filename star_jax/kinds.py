"""The kinds of attention: how contexts are encoded. Each is one object; all are in one registry."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from jax.sharding import Mesh

from star_jax.cache import Cache, Shards
from star_jax.dense import Dense
from star_jax.layer_cache import LayerCache
from star_jax.models import Decoder, DecoderConfig
from star_jax.ring import Ring
from star_jax.sizes import shown
from star_jax.star import Star
from star_jax.ulysses import Ulysses


@runtime_checkable
class Kind(Hashable, Protocol):
    """How contexts are encoded. It is frozen: programs are kept by kind.

    name: what configurations and reports call it. is_exact: it is causal attention, and has no
    sizes.
    """

    name: ClassVar[str]
    is_exact: ClassVar[bool]

    @property
    def sizes(self) -> dict[str, int]:
        """In tokens, by the names that its constructor has for them."""
        ...

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """Raises ValueError if it cannot encode for this model on this mesh."""
        ...

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """What would be better, where contexts have these lengths: a warning each."""
        ...

    def encode(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        mesh: Mesh,
        implementation: str,
        layer_cache: type[LayerCache],
    ) -> tuple[Cache, Shards]:
        """Encodes one context per row, of any lengths; their number fits the mesh's `data`.

        `layer_cache` is the kind of cache that each layer keeps.
        """
        ...


KINDS: dict[str, type[Any]] = {kind.name: kind for kind in (Dense, Ring, Ulysses, Star)}


def check_kind(attention: object) -> None:
    """Raises ValueError for what is no kind of attention."""
    if not isinstance(attention, tuple(KINDS.values())):
        raise ValueError(
            f"attention={shown(attention)} must be Star(...), Ring(), Ulysses() or Dense()"
        )
