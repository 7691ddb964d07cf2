"""Gemma 2, and 3 for text alone: norms around attention and MLP, windows, soft caps, two RoPEs.

In Gemma 2 every other layer sees everything, in Gemma 3 every sixth; the others have windows, and
in Gemma 3 a RoPE of their own. Weights of norms are stored less 1.
"""

import dataclasses
from typing import Any

from star_jax.models.config import DecoderConfig
from star_jax.models.config_fields import HARMLESS, NONE, OFF, ONLY, READ, check_number, windows
from star_jax.models.family import Family, Part, renamed

_NORMS = {
    "after_attention_layernorm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",  # a Llama's name
    "after_mlp_layernorm": "post_feedforward_layernorm",
}
_ITS_OWN = frozenset(
    """
    attention_bias attn_logit_softcapping final_logit_softcapping layer_types
    query_pre_attn_scalar sliding_window
    """.split()
)


_parts = renamed(_NORMS)


def _values(hf: Any) -> dict[str, Any]:
    check_number("query_pre_attn_scalar", hf.query_pre_attn_scalar)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(hf, name) is not None:
            check_number(name, getattr(hf, name))
    return {
        "qkv_bias": hf.attention_bias,
        "o_bias": hf.attention_bias,
        "activation": "gelu_tanh",
        "norm_after": True,
        "norm_plus_one": True,
        "norm_in_float32": True,
        "attention_scale": hf.query_pre_attn_scalar**-0.5,
        "attention_soft_cap": hf.attn_logit_softcapping,
        "logits_soft_cap": hf.final_logit_softcapping,
        "embedding_multiplier": hf.hidden_size**0.5,
        **windows(hf),
    }


# transformers reads hidden_activation and sliding_window.
_HARMLESS = HARMLESS | {"hidden_act", "sliding_window_size"}
_ONLY = {name: allowed for name, allowed in ONLY.items() if name not in _ITS_OWN} | {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "mlp_bias": OFF,
    "use_bidirectional_attention": OFF,
}

GEMMA2 = Family(
    name="gemma2",
    models="Gemma 2",
    hf_config="Gemma2Config",
    read=READ - {"hidden_act"} | _ITS_OWN,
    harmless=_HARMLESS,
    only=_ONLY,
    values=_values,
    parts=_parts,
)
GEMMA3 = Family(
    name="gemma3_text",
    models="Gemma 3 (270M and 1B)",
    hf_config="Gemma3TextConfig",
    read=READ - {"hidden_act"}
    | _ITS_OWN - {"attn_logit_softcapping"}
    | {"rope_local_base_freq", "sliding_window_pattern"},
    harmless=_HARMLESS | {"_sliding_window_pattern"},  # transformers takes no notice of it
    only=_ONLY | {"attn_logit_softcapping": NONE},  # transformers does not heed it here
    values=lambda hf: {**_values(hf), "qk_norm": True},
    parts=_parts,
    local_rope="rope_local_base_freq",
)


def _parts_of_text(config: DecoderConfig, name: str, rows: int) -> tuple[Part, ...]:
    return tuple(
        part._replace(tensor=f"language_model.{part.tensor}") for part in _parts(config, name, rows)
    )


GEMMA3_WITH_IMAGES = dataclasses.replace(
    GEMMA3,
    name="gemma3",
    models="Gemma 3 (4B, 12B and 27B), of which images are not read",
    harmless=GEMMA3.harmless
    | set(
        """
        boi_token_id boi_token_index eoi_token_id eoi_token_index image_token_id image_token_index
        mm_tokens_per_image vision_config
        """.split()
    ),
    parts=_parts_of_text,
    section="text_config",
    section_type=GEMMA3.name,
    unused=("vision_tower.", "multi_modal_projector."),
)
