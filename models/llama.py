"""Llama 2, 3, 3.1, 3.2 and 3.3."""

from typing import Any

from star_jax.models.config_fields import HARMLESS, NONE, ONLY, READ
from star_jax.models.family import Family


def _values(hf: Any) -> dict[str, Any]:
    bias = hf.attention_bias
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": hf.mlp_bias}


LLAMA = Family(
    name="llama",
    models="Llama 2, 3, 3.1, 3.2 and 3.3",
    hf_config="LlamaConfig",
    read=READ | {"attention_bias", "mlp_bias"},
    harmless=HARMLESS,
    only=ONLY | {"sliding_window": NONE},
    values=_values,
)
