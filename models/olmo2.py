"""OLMo 2: what attention and the MLP give is normalised, not what they read; and all heads at once.

The file names these norms otherwise than a Llama does: its norm after attention has the name of a
Llama's norm before the MLP.
"""

from typing import Any

from star_jax.models.config_fields import HARMLESS, NONE, OFF, ONLY, READ
from star_jax.models.family import Family, renamed

_NORMS = {
    "after_attention_layernorm": "post_attention_layernorm",
    "after_mlp_layernorm": "post_feedforward_layernorm",
}


def _values(hf: Any) -> dict[str, Any]:
    return {
        "qkv_bias": hf.attention_bias,
        "o_bias": hf.attention_bias,
        "norm_before": False,
        "norm_after": True,
        "norm_in_float32": True,
        "qk_norm": True,
        "qk_norm_over_heads": True,
    }


OLMO2 = Family(
    name="olmo2",
    models="OLMo 2",
    hf_config="Olmo2Config",
    read=READ | {"attention_bias"},
    harmless=HARMLESS,
    only=ONLY | {"mlp_bias": OFF, "sliding_window": NONE},
    values=_values,
    parts=renamed(_NORMS),
)
