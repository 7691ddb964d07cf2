"""Seed-OSS: a Llama with biases on queries, keys and values, for 512K positions."""

from star_jax.models.config_fields import HARMLESS, ONLY, READ
from star_jax.models.family import Family

SEED_OSS = Family(
    name="seed_oss",
    models="Seed-OSS",
    hf_config="SeedOssConfig",
    read=READ | {"attention_bias", "attention_out_bias", "mlp_bias"},
    harmless=HARMLESS,
    only=ONLY,
    values=lambda hf: {
        "qkv_bias": hf.attention_bias,
        "o_bias": hf.attention_out_bias,
        "mlp_bias": hf.mlp_bias,
    },
)
