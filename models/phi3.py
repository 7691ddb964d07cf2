"""Phi 4: a Llama whose projections are stored as two tensors. Phi 3 has windows or LongRoPE."""

from star_jax.models.config import DecoderConfig
from star_jax.models.config_fields import HARMLESS, NONE, OFF, ONLY, READ
from star_jax.models.family import Family, Part, as_it_is


def _parts(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    """Queries, keys and values are rows of one tensor, and so are gates and ups."""
    head_dim, units = config.head_dim, config.intermediate_size
    q, kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
    fused = {
        "q_proj": ("qkv_proj", 0, q + 2 * kv),
        "k_proj": ("qkv_proj", q, q + 2 * kv),
        "v_proj": ("qkv_proj", q + kv, q + 2 * kv),
        "gate_proj": ("gate_up_proj", 0, 2 * units),
        "up_proj": ("gate_up_proj", units, 2 * units),
    }
    weight = name.split(".")[-2]
    if weight not in fused:
        return as_it_is(config, name, rows)
    tensor, start, total = fused[weight]
    return (Part(name.replace(weight, tensor), start, start + rows, total),)


PHI3 = Family(
    name="phi3",
    models="Phi 4 (14B)",
    hf_config="Phi3Config",
    read=READ,
    rope_types=("default",),
    # Without LongRoPE the original length is of no use.
    harmless=HARMLESS | {"embd_pdrop", "original_max_position_embeddings"},
    only={
        **ONLY,
        "attention_bias": OFF,
        "mlp_bias": OFF,
        "sliding_window": NONE,
    },
    values=lambda hf: {},
    parts=_parts,
)
