"""Phi 3, 3.5, 4 and 4-mini: a Llama whose projections are stored as two tensors.

Many have LongRoPE, and in 4-mini three quarters of each head turn.
"""

from star_jax.models.config import DecoderConfig
from star_jax.models.config_fields import HARMLESS, OFF, ONLY, READ, windows_everywhere
from star_jax.models.family import Family, Part, as_it_is

# What lies beside these checkpoints computes what transformers does. It is not run.
_CODE = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}
_ONE = (1, None)


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
    models="Phi 3, 3.5, 4 and 4-mini",
    hf_config="Phi3Config",
    read=READ | {"original_max_position_embeddings", "partial_rotary_factor", "sliding_window"},
    rope_types=("default", "longrope"),
    harmless=HARMLESS | {"embd_pdrop"},
    only={f: x for f, x in ONLY.items() if f != "partial_rotary_factor"}
    | {
        "attention_bias": OFF,
        "auto_map": (None, _CODE, {**_CODE, "AutoTokenizer": "Xenova/gpt-4o"}),
        "full_attn_mod": _ONE,
        "interpolate_factor": _ONE,
        "lm_head_bias": OFF,
        "mlp_bias": OFF,
    },
    values=windows_everywhere,
    parts=_parts,
)
