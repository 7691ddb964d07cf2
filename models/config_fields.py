"""What the fields of a `config.json` are to every family: read, harmless, or neither.

The lists hold what published checkpoints carry; a family adds its own. A field on none of them
may change the model.
"""

from typing import Any

from star_jax.json_files import shown

# Changing one of these changes what the model computes.
READ = frozenset(
    """
    eos_token_id head_dim hidden_act hidden_size intermediate_size max_position_embeddings
    model_type num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps
    rope_parameters rope_scaling rope_theta tie_word_embeddings vocab_size
    """.split()
)

# The tokenizer's; which of them it adds, it says itself.
_TOKENS = """
    bos_token_id cls_token_id decoder_start_token_id mask_token_id model_max_length pad_token_id
    padding_idx prefix sep_token_id tokenizer_class tokenizer_model_max_length
    tokenizer_padding_side unk_token_id
"""

# Defaults of transformers' generate(), which is not used.
_GENERATION = """
    assistant_confidence_threshold assistant_early_exit assistant_lookbehind bad_words_ids
    begin_suppress_tokens cache_config cache_implementation constraints diversity_penalty
    do_sample dola_layers early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    force_words_ids forced_bos_token_id forced_eos_token_id generation_config guidance_scale
    length_penalty low_memory max_length max_matching_ngram_size max_new_tokens max_time
    min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_logits output_scores penalty_alpha
    prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values renormalize_logits
    repetition_penalty return_dict return_dict_in_generate return_legacy_cache sequence_bias
    stop_strings suppress_tokens target_lookbehind temperature token_healing top_h top_k top_p
    typical_p use_cache use_return_dict watermarking_config
"""

# These are for training, and for heads that are not a language model's.
_TRAINING = """
    attention_dropout attention_probs_dropout_prob attn_dropout attn_pdrop classifier_dropout
    dropout embd_dropout embd_pdrop finetuning_task gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label initializer_factor initializer_range keys_to_ignore_at_inference
    label2id layerdrop loss_type max_seq_len max_seq_length max_sequence_length num_labels
    problem_type resid_dropout resid_pdrop residual_dropout seq_len seq_length
    summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj task_specific_params tf_legacy_loss train_from_scratch
    use_gradient_checkpointing
"""

# Other ways to compute the same: the engine has its own dtype, layout and kernels.
_COMPUTING = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal
    _experts_implementation _experts_implementation_internal _flash_attn_2_enabled
    attn_implementation dtype pretraining_tp tensor_parallel_degree tensor_parallel_output
    torch_dtype torchscript use_bfloat16 use_flash_attention use_flash_attention_2 use_flash_attn
    use_fused_rms_norm use_fused_rope use_sdpa
"""

# Notes of the program that wrote the file, and for other programs that read it.
_NOTES = """
    _auto_class _commit_hash _from_auto _from_model_config _name_or_path _output_attentions
    _rope_scaling_adjustment _rope_scaling_validation architectures is_llama_config license
    model_name name_or_path transformers.js_config transformers_version unsloth_fixed
    unsloth_version
"""

# These do not change the model's logits. They are not looked at, whatever their value.
HARMLESS = frozenset((_TOKENS + _GENERATION + _TRAINING + _COMPUTING + _NOTES).split())

OFF = (False, None)
_ONE = (1.0, None)
NONE = (None,)

# Harmless at these values, a different model at any other.
ONLY: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": OFF,
    "alibi": OFF,
    "attention_qk_norm": OFF,
    "attn_bias": OFF,
    "attn_logit_softcapping": NONE,
    "auto_map": NONE,  # code of its own
    "bias": OFF,
    "chunk_size_feed_forward": (0, None),
    "clip_qkv": NONE,
    "compression_config": NONE,
    "cross_attention_hidden_size": NONE,
    "embedding_multiplier": _ONE,
    "final_logit_softcapping": NONE,
    "hidden_activation": NONE,
    "is_causal": (True, None),
    "is_decoder": (False, True, None),
    "is_encoder_decoder": OFF,
    "logit_scale": _ONE,
    "logits_scaling": _ONE,
    "parallel_attn": OFF,
    "partial_rotary_factor": _ONE,
    "per_layer_config": ({}, None),
    "pruned_heads": ({}, None),
    "qk_layernorm": OFF,
    "qk_norm": OFF,
    "qkv_bias": OFF,
    "quantization": NONE,
    "residual_multiplier": _ONE,
    "rope_interleaved": OFF,  # two halves; the other cuts pairs
    "rope_traditional": OFF,  # the same
    "rotary_pct": _ONE,
    "tie_encoder_decoder": OFF,
    "tie_last_hidden_states": OFF,
    "use_bias": OFF,
    "use_parallel_residual": OFF,
    "use_qk_norm": OFF,
    "use_qkv_bias": OFF,
    "use_sliding_window": OFF,
}

# What says which layers have windows, where `use_sliding_window` decides whether any has.
OF_WINDOWS = frozenset({"layer_types", "max_window_layers", "sliding_window", "use_sliding_window"})

# Of mixtures of experts: what their training added to the loss, and what it is called with.
OF_ROUTERS = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})

# The same, inside a section of RoPE.
ONLY_IN_ROPE: dict[str, tuple[Any, ...]] = {
    "finetuned": (True, None),  # of YaRN's authors; it changes only a type that grows as it goes
    "partial_rotary_factor": _ONE,
}


def windows(hf: Any, layer_types: list[str] | None = None) -> dict[str, Any]:
    """What a `DecoderConfig` says of windows, from transformers' configuration.

    layer_types: what each layer is; by default what the configuration says.
    """
    kinds = hf.layer_types if layer_types is None else layer_types
    if others := sorted(set(kinds) - {"full_attention", _WINDOWED}):
        raise NotImplementedError(
            f"config.json: layer_types={shown(kinds)} is not supported: {shown(others)}, only "
            f"'full_attention' and {_WINDOWED!r}"
        )
    if _WINDOWED not in kinds:
        return {}
    if hf.sliding_window is None:
        raise ValueError(
            f"config.json: layer_types={shown(kinds)}, and there is no sliding_window, or "
            "use_sliding_window is not true"
        )
    windowed = frozenset(i for i, kind in enumerate(kinds) if kind == _WINDOWED)
    # Within the positions that the model is made for it hides nothing.
    is_felt = hf.sliding_window < hf.max_position_embeddings
    return {"window": hf.sliding_window if is_felt else None, "windowed": windowed}


def check_experts(hf: Any) -> None:
    """Refuses a token that is sent to more experts than there are."""
    if hf.num_experts_per_tok > hf.num_experts:
        raise ValueError(
            f"config.json: num_experts_per_tok={hf.num_experts_per_tok} is more than the "
            f"{hf.num_experts} experts that there are"
        )


def windows_everywhere(hf: Any) -> dict[str, Any]:
    """The same where all layers have a window, if there is one."""
    kind = "full_attention" if hf.sliding_window is None else _WINDOWED
    return windows(hf, [kind] * hf.num_hidden_layers)


def is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a value is in the list; true is not 1, nor is false 0."""
    return any(value == x and isinstance(value, bool) == isinstance(x, bool) for x in allowed)


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """Refuses what is no number above 0 in float32, in which the model computes."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and (_SMALLEST <= value <= _GREATEST or (value == 0 and zero))):
        raise ValueError(f"config.json: {name}={shown(value)} must be a number above 0")


_WINDOWED = "sliding_attention"
_SMALLEST, _GREATEST = 2.0**-126, 2.0**127  # of float32, without those that may be flushed to 0
