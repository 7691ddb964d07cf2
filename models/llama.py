"""Llama 2, 3, 3.1, 3.2 and 3.3."""

from star_jax.models.config_fields import HARMLESS, NONE, ONLY, READ
from star_jax.models.family import Family

LLAMA = Family(
    name="llama",
    hf_config="LlamaConfig",
    read=READ | {"attention_bias", "mlp_bias"},
    harmless=HARMLESS,
    only=ONLY | {"sliding_window": NONE},
    values=lambda hf: {"attention_bias": hf.attention_bias, "mlp_bias": hf.mlp_bias},
)
