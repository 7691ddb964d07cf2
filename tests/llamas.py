"""Checkpoints with random weights, written by `transformers`, which is the oracle for them.

`VARIANTS` gives, for each kind of each family in the wild, a small `config.json` with
the fields that the published file has; what it leaves out is left out here.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from star_jax.array_typing import Keys, Queries, Values
from star_jax.attention import Segment, reference
from star_jax.models import Decoder, LayerSpec

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 8.0,
    "beta_slow": 0.5,
    "mscale": 1.5,
    "mscale_all_dim": 0.75,
    "truncate": False,
}
# As many factors as frequencies, for heads of 16.
LONG_ROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.25, 1.6, 2.0, 2.8],
    "long_factor": [1.0, 1.1, 1.6, 3.2, 7.4, 12.2, 24.5, 64.8],
    "original_max_position_embeddings": 16,
}
# As Phi has it, which says the length beside the section.
PHI_LONG_ROPE = {f: x for f, x in LONG_ROPE.items() if f != "original_max_position_embeddings"}
_SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "use_cache": True,
}
_LLAMA3 = {**_SMALL, "num_key_value_heads": 2, "rope_theta": 500000.0, "rope_scaling": None}
_LLAMA31 = {**_LLAMA3, "rope_scaling": LLAMA3_ROPE}
_MISTRAL = {
    **_SMALL,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "attention_dropout": 0.0,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}
_QWEN2 = {
    **_SMALL,
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "sliding_window": 128,
    "max_window_layers": 1,
}
_QWEN3 = {
    **_QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 24,
    "rms_norm_eps": 0.05,  # it is felt
    "rope_scaling": None,
    "sliding_window": None,
}
_PHI3 = {
    **_LLAMA3,
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "embd_pdrop": 0.0,
    "original_max_position_embeddings": 256,
    "pad_token_id": 0,
    "rope_theta": 250000,
    "sliding_window": None,
}
_GRANITE = {
    **_LLAMA3,
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "attention_bias": False,
    "attention_multiplier": 0.125,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "mlp_bias": False,
    "residual_multiplier": 0.22,
    "tie_word_embeddings": True,
}
_SMOLLM3 = {
    **_SMALL,
    "architectures": ["SmolLM3ForCausalLM"],
    "model_type": "smollm3",
    "attention_bias": False,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
_OLMO2 = {
    **_SMALL,
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 0.05,  # it is felt
    "rope_scaling": None,
    "rope_theta": 500000,
}
_GEMMA2 = {
    **{name: value for name, value in _SMALL.items() if name != "hidden_act"},
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 2.0,  # it is felt, as is the next
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 3.0,
    "head_dim": 24,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 30,
    "rms_norm_eps": 0.05,
    "rope_theta": 10000.0,
    "sliding_window": 20,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    **{name: value for name, value in _GEMMA2.items() if not name.endswith("softcapping")},
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "rope_local_base_freq": 100,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "rope_theta": 1000000,
    "sliding_window": 9,
    "sliding_window_pattern": 3,
}
_MIXTRAL = {
    **_MISTRAL,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.02,
}
_QWEN3_MOE = {
    **_QWEN3,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 48,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
_FILLED_IN = ("num_key_value_heads", "rope_theta", "rms_norm_eps", "tie_word_embeddings")

VARIANTS: dict[str, dict[str, Any]] = {
    "llama-2": {**_SMALL, "rope_scaling": None, "torch_dtype": "float16"},
    "llama-3": {**_LLAMA3, "attention_bias": False, "pretraining_tp": 1},
    "llama-3.1": {**_LLAMA31, "attention_bias": False, "mlp_bias": False},
    "llama-3.2": {**_LLAMA31, "head_dim": 16, "tie_word_embeddings": True},
    "llama-3.3": {**_LLAMA31, "head_dim": 16, "eos_token_id": [2, 3]},
    "linear": {**_SMALL, "rope_scaling": LINEAR_ROPE},
    "yarn": {**_LLAMA3, "rope_scaling": YARN_ROPE},
    # All that may be absent is; the original length is then max_position_embeddings.
    "yarn-short": {**_LLAMA3, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
    # An epsilon that is felt: 1e-5 in one of the norms could be wrong unseen.
    "head-dim": {**_LLAMA3, "head_dim": 24, "rms_norm_eps": 0.05},
    "attention-bias": {**_LLAMA3, "attention_bias": True},
    "mlp-bias": {**_LLAMA31, "mlp_bias": True},
    "mistral-v0.3": _MISTRAL,
    "mistral-nemo": {**_MISTRAL, "hidden_size": 96, "head_dim": 16},
    # Eight heads are filled in for keys and values, which a Llama has not.
    "mistral-short": {
        **{name: value for name, value in _MISTRAL.items() if name not in _FILLED_IN},
        "num_attention_heads": 8,
    },
    # A window that is shorter than most blocks and chunks of the tests.
    "mistral-v0.1": {**_MISTRAL, "sliding_window": 7, "rope_theta": 10000.0},
    "qwen2.5": _QWEN2,
    # The second layer has one that is longer than they are.
    "qwen2.5-window": {**_QWEN2, "use_sliding_window": True, "sliding_window": 20},
    "qwen2.5-tied": {
        **_QWEN2,
        "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * 2,
        "rope_scaling": YARN_ROPE,
    },
    "qwen3": _QWEN3,
    "qwen3-window": {
        **_QWEN3,
        "use_sliding_window": True,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3-bias": {**_QWEN3, "attention_bias": True, "tie_word_embeddings": True},
    # 32 heads for keys and values are filled in, and heads of 128.
    "qwen3-short": {
        **{f: x for f, x in _QWEN3.items() if f not in (*_FILLED_IN, "head_dim")},
        "num_attention_heads": 32,
    },
    "phi3": _PHI3,
    "phi3.5": {
        **_PHI3,
        "original_max_position_embeddings": 64,
        "rope_scaling": PHI_LONG_ROPE,
        "sliding_window": 512,  # it hides nothing
    },
    # Not made longer than it was: the short factors.
    "phi3-short": {
        **{f: x for f, x in _PHI3.items() if f not in (*_FILLED_IN, "sliding_window")},
        "partial_rotary_factor": 1.0,
        "rope_scaling": {**PHI_LONG_ROPE, "attention_factor": 1.3},
    },
    "phi4-mini": {
        **_PHI3,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 6,
            "long_factor": [1, 1.12, 1.4, 4.3, 20.5, 47.8],
        },
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    "phi4-mini-short": {**_PHI3, "partial_rotary_factor": 0.5},
    "phi3-window": {**_PHI3, "sliding_window": 15},
    "granite": _GRANITE,
    "granite-bias": {**_GRANITE, "attention_bias": True, "mlp_bias": True},
    # Its multipliers are 1, that of scores too.
    "granite-short": {
        **{f: x for f, x in _GRANITE.items() if not f.endswith(("multiplier", "scaling"))},
    },
    "smollm3": {**_SMOLLM3, "num_hidden_layers": 4},
    # The layer without RoPE is the one with a window.
    "smollm3-window": {
        **_SMOLLM3,
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 9,
    },
    "smollm3-listed": {
        **{f: x for f, x in _SMOLLM3.items() if f not in (*_FILLED_IN, "no_rope_layer_interval")},
        "layer_types": ["full_attention"] * 2,
        "no_rope_layers": [0, 1],
    },
    "olmo2": _OLMO2,
    # As many heads for keys and values are filled in.
    "olmo2-bias": {
        **{f: x for f, x in _OLMO2.items() if f not in _FILLED_IN},
        "attention_bias": True,
        "rope_scaling": LLAMA3_ROPE,
        "tie_word_embeddings": True,
    },
    "gemma2": _GEMMA2,
    "gemma2-bias": {
        **_GEMMA2,
        "attention_bias": True,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "layer_types": ["full_attention", "sliding_attention"],
        "tie_word_embeddings": False,
    },
    "gemma3": _GEMMA3,
    "gemma3-images": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [2, 3],
        "image_token_index": 159,
        "model_type": "gemma3",
        "text_config": _GEMMA3,
        "vision_config": {
            "hidden_size": 16,
            "image_size": 28,
            "intermediate_size": 16,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    # Its window hides nothing, and its layers have their own RoPE nevertheless.
    "gemma3-short": {**_GEMMA3, "sliding_window": 256},
    # As transformers writes it now.
    "gemma3-listed": {
        **{f: x for f, x in _GEMMA3.items() if not f.startswith("rope") and f not in _FILLED_IN},
        "_sliding_window_pattern": 6,
        "query_pre_attn_scalar": 300,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    "seed-oss": {**_LLAMA3, "model_type": "seed_oss", "attention_bias": True, "head_dim": 24},
    "seed-oss-bias": {
        **{f: x for f, x in _LLAMA3.items() if f not in ("num_key_value_heads", "rope_theta")},
        "model_type": "seed_oss",
        "attention_bias": False,
        "attention_out_bias": True,
        "head_dim": 16,
        "mlp_bias": True,
        "num_attention_heads": 8,
    },
    "mixtral": _MIXTRAL,
    # Each token goes to all experts but one.
    "mixtral-short": {
        **{f: x for f, x in _MIXTRAL.items() if f not in _FILLED_IN},
        "num_attention_heads": 8,
        "num_experts_per_tok": 5,
        "num_local_experts": 6,
    },
    "qwen3-moe": _QWEN3_MOE,
    # Of four layers the second alone has experts. Each token goes to one, which counts as much as
    # the router says, and not all.
    "qwen3-moe-listed": {
        **_QWEN3_MOE,
        "attention_bias": True,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
        "norm_topk_prob": False,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "tie_word_embeddings": True,
    },
}

SPELLINGS = ("saved", "published", "older")


def hf_config(fields: dict[str, Any]) -> transformers.PreTrainedConfig:
    """The configuration as transformers reads it, with its own code."""
    fields = {name: value for name, value in fields.items() if name != "auto_map"}
    family = transformers.CONFIG_MAPPING[fields["model_type"]]
    return family.from_dict(json.loads(json.dumps(fields)))


def build(fields: dict[str, Any], *, seed: int = 0) -> transformers.PreTrainedModel:
    """A random model in float32, in which every weight matters, norms and biases too."""
    config = hf_config(fields)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = rng.normal(size=tuple(weight.shape))
            if "norm" in name:
                values = 1 + 0.2 * values
            elif weight.ndim > 1:  # of three axes where experts lie side by side
                values *= 1.5 / np.sqrt(weight.shape[-1])
            weight.copy_(torch.from_numpy(values))
    return model


def their_frequencies(config: Any) -> tuple[np.ndarray, float]:
    """Inverse frequencies, and the scale of cos and sin, for a sequence as long as they may be."""
    # All have the same, but for heads of which only a part turns.
    module = transformers.models.phi3.modeling_phi3.Phi3RotaryEmbedding(config)
    module(torch.zeros(1), torch.tensor([[config.max_position_embeddings - 1]]))
    return module.inv_freq.numpy(), module.attention_scaling


def write(
    directory: pathlib.Path,
    model: transformers.PreTrainedModel,
    fields: dict[str, Any],
    *,
    spelling: str = "published",
    **options: Any,
) -> pathlib.Path:
    """Saves the model, with `config.json` in one of the `SPELLINGS`."""
    model.save_pretrained(directory, **options)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if spelling != "saved":
        fields = dict(fields)
        if spelling == "older" and fields.get("rope_scaling"):
            scaling = dict(fields["rope_scaling"])
            rope_type = scaling.pop("rope_type")
            rope_type = "su" if rope_type == "longrope" else rope_type  # its first name
            fields["rope_scaling"] = {"type": rope_type, **scaling}
        (directory / "config.json").write_text(json.dumps(fields, indent=2))
    return directory


def their_logits(model: transformers.PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """Float32 logits [B, T, V] for tokens [B, T]."""
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


class _Causal:
    """Plain causal attention over the tokens at hand; no state."""

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: None) -> None:
        return state

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: None
    ) -> tuple[Queries, None]:
        own = Segment(k, v, causal=True, window=spec.window)
        return reference.attend(q, [own], scale=spec.scale, soft_cap=spec.soft_cap).out, state


@jax.jit
def _forward(model: Decoder, tokens: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = model.run(tokens, positions, _Causal(), None)
    return model.logits(hidden)


def our_logits(model: Decoder, tokens: np.ndarray) -> np.ndarray:
    """The same of our model, with plain causal attention."""
    return np.asarray(_forward(model, jnp.asarray(tokens)))
