"""Mistral 7B and Nemo: no biases, and in version 0.1 a window in every layer."""

from star_jax.models.config_fields import HARMLESS, OFF, ONLY, READ, windows_everywhere
from star_jax.models.family import Family

MISTRAL = Family(
    name="mistral",
    models="Mistral 7B, Nemo",
    hf_config="MistralConfig",
    read=READ | {"sliding_window"},
    harmless=HARMLESS,
    only=ONLY | {"attention_bias": OFF, "mlp_bias": OFF},
    values=windows_everywhere,
)
