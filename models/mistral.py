"""Mistral 7B and Nemo: no biases, and no window yet, so that Mistral 7B v0.1 is refused."""

from typing import Any

from star_jax.json_files import shown
from star_jax.models.config_fields import HARMLESS, OFF, ONLY, READ
from star_jax.models.family import Family


def _values(hf: Any) -> dict[str, Any]:
    if hf.sliding_window is not None:
        raise NotImplementedError(
            f"config.json: sliding_window={shown(hf.sliding_window)} is not supported, only None; "
            "where it is absent, a Mistral's is 4096"
        )
    return {}


MISTRAL = Family(
    name="mistral",
    models="Mistral 7B v0.2 and v0.3, Nemo",
    hf_config="MistralConfig",
    read=READ | {"sliding_window"},
    harmless=HARMLESS,
    only=ONLY | {"attention_bias": OFF, "mlp_bias": OFF},
    values=_values,
)
