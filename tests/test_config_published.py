"""Published config.json files: the tensors, frequencies and values that are read from them."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import llamas
import published
import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from star_jax import models
from star_jax.models import DecoderConfig, rope

Shapes = dict[str, tuple[int, ...]]


def hugging_face_shapes(fields: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors that transformers has for this config, none allocated."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(llamas.hf_config(fields))
    tensors = dict(model.named_parameters())  # a tied head once, as the embedding
    tensors = revert_weight_conversion(model, tensors)  # as they are named in files
    unused = models.family_of(fields["model_type"]).unused
    return {n: tuple(x.shape) for n, x in tensors.items() if not n.startswith(unused)}


def shapes(fields: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors that our weights are read from, by abstract evaluation."""
    found: Shapes = {}
    config = models.from_dict(fields)
    family = models.family_of(config.family)

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        sizes = list(shape)
        for at in (axes.index(a) for a in ("heads", "kv_heads", "experts") if a in axes):
            sizes[at : at + 2] = [shape[at] * shape[at + 1]]
        for part in family.parts(config, name, sizes[0]):
            found[part.tensor] = (part.rows, *sizes[1:])
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    model = models.build(config, make)
    held = sum(math.prod(x.shape) for x in jax.tree.leaves(model))
    assert held == sum(math.prod(shape) for shape in found.values())
    return found


@pytest.mark.parametrize("name", published.CONFIGS)
def test_published_configs_give_the_published_tensors(name: str) -> None:
    found = shapes(published.CONFIGS[name])
    parameters, tensors = published.COUNTS[name]
    assert sum(math.prod(shape) for shape in found.values()) == parameters
    assert len(found) == tensors
    assert found == hugging_face_shapes(published.CONFIGS[name])


def test_the_tensors_of_llama_31_8b_by_name() -> None:
    expected = dict(published.LLAMA_31_8B_OUTSIDE)
    for i in range(32):
        layer = published.LLAMA_31_8B_LAYER.items()
        expected |= {f"model.layers.{i}.{name}": shape for name, shape in layer}
    assert shapes(published.CONFIGS["Llama-3.1-8B"]) == expected


@pytest.mark.parametrize("name", published.CONFIGS)
def test_published_configs_give_the_frequencies_of_transformers(name: str) -> None:
    """At the real sizes: both ends of the scaled range and what lies between."""
    config = models.from_dict(published.CONFIGS[name])
    hf: Any = llamas.hf_config(published.CONFIGS[name]).get_text_config()
    if config.local_rope is not None:
        local, of_all = (hf.rope_parameters[f"{kind}_attention"] for kind in ("sliding", "full"))
        hf = transformers.LlamaConfig(head_dim=config.head_dim, rope_parameters=of_all)
        assert local["rope_type"] == config.local_rope.rope_type == "default"
        assert local["rope_theta"] == config.local_rope.theta
    expected, scale = llamas.their_frequencies(hf)
    actual = rope.frequencies(config.rope, config.head_dim)
    assert config.rope.attention_factor == pytest.approx(scale, rel=1e-12)
    chex.assert_trees_all_close(actual, expected, rtol=2e-6, atol=0)


def test_values_of_llama_31_8b() -> None:
    fields = published.CONFIGS["Llama-3.1-8B"] | {"eos_token_id": [128001, 128008, 128009]}
    assert models.from_dict(fields) == DecoderConfig(
        family="llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope=rope.Rope(
            rope_type="llama3",
            theta=500000.0,
            partial_rotary_factor=1.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192.0,
            attention_factor=1.0,
        ),
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        activation="silu",
        norm_before=True,
        norm_after=False,
        norm_plus_one=False,
        norm_in_float32=False,
        qk_norm=False,
        qk_norm_over_heads=False,
        without_rope=frozenset(),
        local_rope=None,
        window=None,
        windowed=frozenset(),
        attention_soft_cap=None,
        logits_soft_cap=None,
        attention_scale=128**-0.5,
        embedding_multiplier=1.0,
        residual_multiplier=1.0,
        logits_divisor=1.0,
        experts=None,
        eos_token_ids=(128001, 128008, 128009),
    )
