"""Mixtral: a Mistral whose layers have experts."""

from typing import Any

from star_jax.models.config import DecoderConfig, Experts
from star_jax.models.config_fields import (
    HARMLESS,
    OF_ROUTERS,
    OFF,
    ONLY,
    READ,
    check_experts,
    windows_everywhere,
)
from star_jax.models.family import Family, Part, as_it_is, one_after_another
from star_jax.models.moe import SparseDecoder

_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def _values(hf: Any) -> dict[str, Any]:
    check_experts(hf)
    experts = Experts(
        count=hf.num_local_experts,
        per_token=hf.num_experts_per_tok,
        intermediate_size=hf.intermediate_size,
        renormalized=True,
        dense_layers=frozenset(),
    )
    return {"experts": experts, **windows_everywhere(hf)}


def _parts(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    """Each expert has tensors of its own, and names that go back to Mistral's own code."""
    before, found, after = name.partition(".mlp.")
    if not found or config.experts is None:
        return as_it_is(config, name, rows)
    before = f"{before}.block_sparse_moe"
    if after == "gate.weight":
        return as_it_is(config, f"{before}.{after}", rows)
    weight = _NAMES[after.split(".")[1]]
    experts = range(config.experts.count)
    return one_after_another([f"{before}.experts.{e}.{weight}.weight" for e in experts], rows)


MIXTRAL = Family(
    name="mixtral",
    models="Mixtral 8x7B and 8x22B",
    hf_config="MixtralConfig",
    read=READ | {"num_experts_per_tok", "num_local_experts", "sliding_window"},
    harmless=HARMLESS | OF_ROUTERS,
    only=ONLY | {"attention_bias": OFF, "mlp_bias": OFF},
    values=_values,
    parts=_parts,
    decoder=SparseDecoder,
)
