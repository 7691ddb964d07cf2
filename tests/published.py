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

_QWEN25_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}

_QWEN25_72B = {
    **_QWEN25_7B,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "max_window_layers": 70,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
}

# Its positions change chunk by chunk, so it is refused.
QWEN25_7B_1M = {
    **_QWEN25_7B,
    "dual_chunk_attention_config": {
        "chunk_size": 262144,
        "local_size": 8192,
        "original_max_position_embeddings": 262144,
    },
    "max_position_embeddings": 1010000,
    "rope_theta": 10000000.0,
    "sliding_window": 32768,
}

_QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

_QWEN3_32B = {
    **_QWEN3_8B,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_window_layers": 64,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
}

_QWEN3_06B = {
    **_QWEN3_8B,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
}

_GRANITE_8B = {
    "architectures": ["GraniteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.0078125,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "granite",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.47.0.dev0",
    "use_cache": True,
    "vocab_size": 49155,
}

_SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 128256,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-2-7b-hf": _LLAMA_2_7B,
    "Meta-Llama-3-8B": _LLAMA_3_8B,
    "Llama-3.1-8B": _LLAMA_31_8B,
    "Llama-3.1-70B": _LLAMA_31_70B,
    "Llama-3.2-1B": _LLAMA_32_1B,
    "Mistral-7B-v0.3": _MISTRAL_7B_V03,
    "Mistral-Nemo-Base-2407": _MISTRAL_NEMO,
    "Qwen2.5-7B": _QWEN25_7B,
    "Qwen2.5-72B": _QWEN25_72B,
    "Qwen3-0.6B": _QWEN3_06B,
    "Qwen3-8B": _QWEN3_8B,
    "Qwen3-32B": _QWEN3_32B,
    "granite-3.1-8b-instruct": _GRANITE_8B,
    "SmolLM3-3B": _SMOLLM3_3B,
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
    "Qwen2.5-7B": (7_615_616_512, 339),
    "Qwen2.5-72B": (72_706_203_648, 963),
    "Qwen3-0.6B": (596_049_920, 310),
    "Qwen3-8B": (8_190_735_360, 399),
    "Qwen3-32B": (32_762_123_264, 707),
    "granite-3.1-8b-instruct": (8_170_848_256, 362),
    "SmolLM3-3B": (3_075_098_624, 326),
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
