"""Qwen 3 with experts: its attention is that of the dense ones. Some layers may have an MLP."""

from typing import Any

from star_jax.json_files import shown
from star_jax.models.config import DecoderConfig, Experts
from star_jax.models.config_fields import (
    HARMLESS,
    OF_ROUTERS,
    READ,
    check_experts,
    windows_everywhere,
)
from star_jax.models.family import Family, Part, as_it_is, one_after_another
from star_jax.models.moe import SparseDecoder
from star_jax.models.qwen import QWEN3


def _values(hf: Any) -> dict[str, Any]:
    check_experts(hf)
    if any(type(i) is not int or i < 0 for i in hf.mlp_only_layers):
        raise ValueError(
            f"config.json: mlp_only_layers={shown(hf.mlp_only_layers)} must be indices of layers"
        )
    step = hf.decoder_sparse_step
    experts = Experts(
        count=hf.num_experts,
        per_token=hf.num_experts_per_tok,
        intermediate_size=hf.moe_intermediate_size,
        renormalized=hf.norm_topk_prob,
        dense_layers=frozenset(
            i for i in range(hf.num_hidden_layers) if i in hf.mlp_only_layers or (i + 1) % step
        ),
    )
    bias = hf.attention_bias
    return {
        "qkv_bias": bias,
        "o_bias": bias,
        "qk_norm": True,
        "experts": experts,
        **windows_everywhere(hf),
    }


def _parts(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    """Each expert has tensors of its own."""
    before, found, after = name.partition(".experts.")
    if not found or config.experts is None:
        return as_it_is(config, name, rows)
    experts = range(config.experts.count)
    return one_after_another([f"{before}.experts.{e}.{after}" for e in experts], rows)


QWEN3_MOE = Family(
    name="qwen3_moe",
    models="Qwen 3, with experts",
    hf_config="Qwen3MoeConfig",
    read=READ
    | set(
        """
        attention_bias decoder_sparse_step mlp_only_layers moe_intermediate_size norm_topk_prob
        num_experts num_experts_per_tok num_local_experts sliding_window use_sliding_window
        """.split()
    ),
    harmless=HARMLESS | OF_ROUTERS | {"max_window_layers"},
    only={
        **QWEN3.only,
        "shared_expert_intermediate_size": (0, None),
        "use_qk_norm": (True, None),  # so it is, said or not
    },
    values=_values,
    parts=_parts,
    decoder=SparseDecoder,
)
