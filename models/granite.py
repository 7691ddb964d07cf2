"""Granite 3, dense: a Llama whose parts are multiplied by numbers of their own."""

from typing import Any

from star_jax.models.config_fields import HARMLESS, NONE, ONLY, READ, check_number
from star_jax.models.family import Family

_NUMBERS = ("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier")


def _values(hf: Any) -> dict[str, Any]:
    for name in _NUMBERS:
        check_number(name, getattr(hf, name))
    bias = hf.attention_bias
    return {
        "qkv_bias": bias,
        "o_bias": bias,
        "mlp_bias": hf.mlp_bias,
        "attention_scale": float(hf.attention_multiplier),
        "embedding_multiplier": float(hf.embedding_multiplier),
        "residual_multiplier": float(hf.residual_multiplier),
        "logits_divisor": float(hf.logits_scaling),
    }


GRANITE = Family(
    name="granite",
    models="Granite 3.0 to 3.3, dense",
    hf_config="GraniteConfig",
    read=READ | {"attention_bias", "mlp_bias", *_NUMBERS},
    harmless=HARMLESS,
    only={f: x for f, x in ONLY.items() if f not in _NUMBERS} | {"sliding_window": NONE},
    values=_values,
)
