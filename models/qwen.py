"""Qwen 2, 2.5 and 3, dense: biases on queries, keys and values, and since 3 a norm in their place.

No windows yet. The variants for 1M tokens change positions chunk by chunk, and are refused by name.
"""

from typing import Any

from star_jax.models.config_fields import (
    HARMLESS,
    NONE,
    OF_WINDOWS,
    OFF,
    ONLY,
    READ,
    check_no_windows,
)
from star_jax.models.family import Family

_ONLY = {
    **ONLY,
    "dual_chunk_attention_config": NONE,
    "mlp_bias": OFF,
    "use_mrope": OFF,
}


def _values(hf: Any) -> dict[str, Any]:
    check_no_windows(hf.layer_types)
    return {"qkv_bias": True}


def _values_3(hf: Any) -> dict[str, Any]:
    check_no_windows(hf.layer_types)
    return {"qkv_bias": hf.attention_bias, "o_bias": hf.attention_bias, "qk_norm": True}


QWEN2 = Family(
    name="qwen2",
    models="Qwen 2 and 2.5, dense",
    hf_config="Qwen2Config",
    read=READ | {"layer_types"},
    harmless=HARMLESS | OF_WINDOWS,
    only=_ONLY | {"attention_bias": (True, None)},
    values=_values,
)
QWEN3 = Family(
    name="qwen3",
    models="Qwen 3, dense",
    hf_config="Qwen3Config",
    read=READ | {"attention_bias", "layer_types"},
    harmless=HARMLESS | OF_WINDOWS,
    only=_ONLY,
    values=_values_3,
)
