"""SmolLM 3: a Llama in which every fourth layer has no RoPE."""

from typing import Any

from star_jax.json_files import shown
from star_jax.models.config_fields import (
    HARMLESS,
    OF_WINDOWS,
    ONLY,
    READ,
    windows,
)
from star_jax.models.family import Family


def _values(hf: Any) -> dict[str, Any]:
    has_rope = hf.no_rope_layers  # so it is, whatever the name says
    if not set(has_rope) <= {0, 1}:
        raise ValueError(f"config.json: no_rope_layers={shown(has_rope)} must be of 0 and 1")
    return {
        "qkv_bias": hf.attention_bias,
        "o_bias": hf.attention_bias,
        "mlp_bias": hf.mlp_bias,
        "without_rope": frozenset(i for i, has in enumerate(has_rope) if not has),
        **windows(hf),
    }


SMOLLM3 = Family(
    name="smollm3",
    models="SmolLM 3",
    hf_config="SmolLM3Config",
    read=READ
    | OF_WINDOWS - {"max_window_layers"}
    | {"attention_bias", "mlp_bias", "no_rope_layer_interval", "no_rope_layers"},
    harmless=HARMLESS | {"max_window_layers"},
    only={name: allowed for name, allowed in ONLY.items() if name not in OF_WINDOWS},
    values=_values,
)
