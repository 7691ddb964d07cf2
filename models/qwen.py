"""Qwen 2, 2.5 and 3, dense: biases on queries, keys and values, and since 3 a norm in their place.

The variants for 1M tokens change positions chunk by chunk, and are refused by name.
"""

from typing import Any

from star_jax.models.config_fields import (
    HARMLESS,
    NONE,
    OF_WINDOWS,
    OFF,
    ONLY,
    READ,
    windows,
)
from star_jax.models.family import Family

_ONLY = {
    **{name: allowed for name, allowed in ONLY.items() if name not in OF_WINDOWS},
    "dual_chunk_attention_config": NONE,
    "mlp_bias": OFF,
    "use_mrope": OFF,
}


def _values(hf: Any) -> dict[str, Any]:
    return {"qkv_bias": True, **windows(hf)}


def _values_3(hf: Any) -> dict[str, Any]:
    return {
        "qkv_bias": hf.attention_bias,
        "o_bias": hf.attention_bias,
        "qk_norm": True,
        **windows(hf),
    }


QWEN2 = Family(
    name="qwen2",
    models="Qwen 2 and 2.5, dense",
    hf_config="Qwen2Config",
    read=READ | OF_WINDOWS,
    harmless=HARMLESS,
    only=_ONLY | {"attention_bias": (True, None)},
    values=_values,
)
QWEN3 = Family(
    name="qwen3",
    models="Qwen 3, dense",
    hf_config="Qwen3Config",
    read=READ | OF_WINDOWS | {"attention_bias"},
    harmless=HARMLESS,
    only=_ONLY,
    values=_values_3,
)
