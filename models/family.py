"""A family of checkpoints as a record: what its `config.json` says, and what its tensors are."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder


class Part(NamedTuple):
    """Rows `start` to `stop` of a stored tensor that has `rows` of them.

    Where a weight has heads, they share one axis with the head dimension in the file; where it has
    experts, they share one with the rows of each.
    """

    tensor: str
    start: int
    stop: int
    rows: int


def as_it_is(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    """A weight is a tensor of its own, and has the tensor's name."""
    del config
    return (Part(name, 0, rows, rows),)


def one_after_another(tensors: Sequence[str], rows: int) -> tuple[Part, ...]:
    """A weight is these tensors, all of them whole and with the same number of rows."""
    each = rows // len(tensors)
    return tuple(Part(tensor, 0, each, each) for tensor in tensors)


def renamed(names: Mapping[str, str]) -> Callable[[DecoderConfig, str, int], tuple[Part, ...]]:
    """Parts of a family whose tensors differ from a Llama's in these names alone."""

    def parts(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
        weight = name.split(".")[-2]
        return as_it_is(config, name.replace(weight, names.get(weight, weight)), rows)

    return parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What is a family's own.

    name: its `model_type`. models: which ones they are, for people.
    hf_config: the class of transformers that fills in absent fields, by name (slow to import).
    read, harmless, only: the fields of `config.json`, each on one of the lists; see
      `config_fields`.
    rope_types: those that its configuration may ask for; None: all that there are.
    values: the fields of a `DecoderConfig` that not all families have, where they have a say, from
      transformers' configuration. It raises NotImplementedError for what is not supported.
    parts: which stored tensors a weight of this name, with so many rows, is made from: one after
      another along the first axis. Several weights may be parts of one tensor.
    local_rope: the field with theta of a RoPE that layers with windows have for themselves.
    section: of a model of more than text, the field with the fields of the text model, whose
      `model_type` is section_type. unused: how the names of the other models' tensors begin.
    decoder: computes it.
    """

    name: str
    models: str
    hf_config: str
    read: frozenset[str]
    harmless: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]
    values: Callable[[Any], dict[str, Any]]
    parts: Callable[[DecoderConfig, str, int], tuple[Part, ...]] = as_it_is
    rope_types: tuple[str, ...] | None = None
    local_rope: str | None = None
    section: str | None = None
    section_type: str | None = None
    unused: tuple[str, ...] = ()
    decoder: type[Decoder] = Decoder
