"""Qwen 2, 2.5 and 3, dense: biases on queries, keys and values, and since 3 a norm in their place.

No windows yet. The variants for 1M tokens change positions chunk by chunk, and are refused by name.
"""

from typing import Any

from star_jax.json_files import shown
from star_jax.models.config_fields import HARMLESS, NONE, OFF, ONLY, READ
from star_jax.models.family import Family

# A window is used if `use_sliding_window` says so; without it these two are not looked at.
_OF_WINDOWS = {"sliding_window", "max_window_layers"}
_ONLY = {
    **ONLY,
    "dual_chunk_attention_config": NONE,
    "mlp_bias": OFF,
}


def _all_full(hf: Any) -> None:
    if others := sorted({t for t in hf.layer_types if t != "full_attention"}):
        raise NotImplementedError(
            f"config.json: layer_types={shown(hf.layer_types)} is not supported: {shown(others)}, "
            "only 'full_attention'"
        )


def _values(hf: Any) -> dict[str, Any]:
    _all_full(hf)
    return {"qkv_bias": True, "out_bias": False, "mlp_bias": False, "qk_norm": False}


def _values_3(hf: Any) -> dict[str, Any]:
    _all_full(hf)
    bias = hf.attention_bias
    return {"qkv_bias": bias, "out_bias": bias, "mlp_bias": False, "qk_norm": True}


QWEN2 = Family(
    name="qwen2",
    hf_config="Qwen2Config",
    read=READ | {"layer_types"},
    harmless=HARMLESS | _OF_WINDOWS,
    only=_ONLY | {"attention_bias": (True, None)},
    values=_values,
)
QWEN3 = Family(
    name="qwen3",
    hf_config="Qwen3Config",
    read=READ | {"attention_bias", "layer_types"},
    harmless=HARMLESS | _OF_WINDOWS,
    only=_ONLY,
    values=_values_3,
)
