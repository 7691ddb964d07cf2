"""The values of published `config.json` files, and what is known of their checkpoints."""

from typing import Any

_LLAMA_2_7B = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}

_LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}

_LLAMA_31_8B = {
    **_LLAMA_3_8B,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "transformers_version": "4.43.0.dev0",
}

_LLAMA_31_70B = {
    **_LLAMA_31_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
}

_LLAMA_32_1B = {
    **_LLAMA_31_8B,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
}

_MISTRAL_7B_V03 = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
    "vocab_size": 32768,
}

_MISTRAL_NEMO = {
    **_MISTRAL_7B_V03,
    "head_dim": 128,
    "hidden_size": 5120,
    "max_position_embeddings": 128000,
    "num_hidden_layers": 40,
    "transformers_version": "4.43.0.dev0",
    "vocab_size": 131072,
}

# Its layers see a window, so it is refused.
MISTRAL_7B_V01 = {
    **_MISTRAL_7B_V03,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "transformers_version": "4.34.0.dev0",
    "vocab_size": 32000,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-2-7b-hf": _LLAMA_2_7B,
    "Meta-Llama-3-8B": _LLAMA_3_8B,
    "Llama-3.1-8B": _LLAMA_31_8B,
    "Llama-3.1-70B": _LLAMA_31_70B,
    "Llama-3.2-1B": _LLAMA_32_1B,
    "Mistral-7B-v0.3": _MISTRAL_7B_V03,
    "Mistral-Nemo-Base-2407": _MISTRAL_NEMO,
}

# Parameters, and tensors in the files.
COUNTS: dict[str, tuple[int, int]] = {
    "Llama-2-7b-hf": (6_738_415_616, 291),
    "Meta-Llama-3-8B": (8_030_261_248, 291),
    "Llama-3.1-8B": (8_030_261_248, 291),
    "Llama-3.1-70B": (70_553_706_496, 723),
    "Llama-3.2-1B": (1_235_814_400, 146),
    "Mistral-7B-v0.3": (7_248_023_552, 291),
    "Mistral-Nemo-Base-2407": (12_247_782_400, 363),
}

# One layer of Llama-3.1-8B, and what lies around the layers, as its index names them.
LLAMA_31_8B_LAYER: dict[str, tuple[int, ...]] = {
    "input_layernorm.weight": (4096,),
    "mlp.down_proj.weight": (4096, 14336),
    "mlp.gate_proj.weight": (14336, 4096),
    "mlp.up_proj.weight": (14336, 4096),
    "post_attention_layernorm.weight": (4096,),
    "self_attn.k_proj.weight": (1024, 4096),
    "self_attn.o_proj.weight": (4096, 4096),
    "self_attn.q_proj.weight": (4096, 4096),
    "self_attn.v_proj.weight": (1024, 4096),
}
LLAMA_31_8B_OUTSIDE: dict[str, tuple[int, ...]] = {
    "lm_head.weight": (128256, 4096),
    "model.embed_tokens.weight": (128256, 4096),
    "model.norm.weight": (4096,),
}
