"""Mistral 7B and Nemo: no biases, and in version 0.1 a window in every layer."""

from typing import Any

from star_jax.models.config_fields import HARMLESS, OFF, ONLY, READ, windows
from star_jax.models.family import Family


def _values(hf: Any) -> dict[str, Any]:
    kind = "full_attention" if hf.sliding_window is None else "sliding_attention"
    return windows(hf, [kind] * hf.num_hidden_layers)


MISTRAL = Family(
    name="mistral",
    models="Mistral 7B, Nemo",
    hf_config="MistralConfig",
    read=READ | {"sliding_window"},
    harmless=HARMLESS,
    only=ONLY | {"attention_bias": OFF, "mlp_bias": OFF},
    values=_values,
)
