"""The Llamas that `benchmarks.prefill` fills with random weights: fields of a config.json."""

from typing import Any

Fields = dict[str, Any]

_COMMON: Fields = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 500000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_TOY: Fields = {
    **_COMMON,
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}

# In float32, on CPU, beside transformers.
CPU: dict[str, Fields] = {
    "small": {
        **_COMMON,
        "vocab_size": 1024,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
    },
    "toy": _TOY,
}

# In bfloat16, on one GPU; the toy is for tests.
GPU: dict[str, Fields] = {
    "llama31_8b": {
        **_COMMON,
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2**20,  # published: 131072; it only warns
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "gpu_toy": {**_TOY, "max_position_embeddings": 256},
}
