"""Every field of a `config.json` is read, harmless or refused; none is ignored in silence."""

import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import published
import pytest
import torch
import transformers

from star_jax.models import config as model_config
from star_jax.models import rope
from star_jax.models.llama import Llama

FIELDS = llamas.VARIANTS["llama-3"]
Shapes = dict[str, tuple[int, ...]]


def hugging_face_shapes(fields: dict[str, Any]) -> Shapes:
    """Names and shapes of the tensors that transformers has for this config, none allocated."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(dict(fields)))
    tensors = dict(model.named_parameters())  # a tied head once, as the embedding
    return {name: tuple(x.shape) for name, x in tensors.items()}


def shapes(fields: dict[str, Any]) -> Shapes:
    """Names of our weights and their shapes in the file, by abstract evaluation."""
    found: Shapes = {}

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        sizes = list(shape)
        if "head" in axes:
            at = axes.index("head")
            sizes[at - 1 : at + 1] = [shape[at - 1] * shape[at]]
        found[name] = tuple(sizes)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    model = Llama(model_config.from_dict(fields), make)
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
    config = model_config.from_dict(published.CONFIGS[name])
    hf = transformers.LlamaConfig.from_dict(dict(published.CONFIGS[name]))
    module = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(hf)
    expected = module.inv_freq.numpy()
    actual = rope.frequencies(config.rope, config.head_dim)
    assert actual.shape == (config.head_dim // 2,)
    np.testing.assert_allclose(actual, expected, rtol=2e-6)


def test_values_of_llama_31_8b() -> None:
    fields = published.CONFIGS["Llama-3.1-8B"] | {"eos_token_id": [128001, 128008, 128009]}
    assert model_config.from_dict(fields) == model_config.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope=model_config.Rope(
            rope_type="llama3",
            theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192.0,
            attention_factor=1.0,
        ),
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        eos_token_ids=(128001, 128008, 128009),
    )


def outputs(fields: dict[str, Any]) -> np.ndarray:
    """Logits of a model whose weights depend only on their names and shapes."""

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        x = np.random.default_rng(list(name.encode())).normal(size=shape)
        return jnp.asarray(1 + 0.2 * x if "norm" in name else x / np.sqrt(shape[-1]), jnp.float32)

    model = Llama(model_config.from_dict(fields), make)
    return llamas.our_logits(model, np.arange(60)[None])


# A second value of every field that is read, and what must show it: the model's outputs, its
# tensors, what the engine sees, or a refusal.
READ: dict[str, tuple[Any, str]] = {
    "attention_bias": (True, "tensors"),
    "eos_token_id": ([2, 5], "eos_token_ids"),
    "head_dim": (24, "tensors"),
    "hidden_act": ("gelu", "refused"),
    "hidden_size": (96, "tensors"),
    "intermediate_size": (64, "tensors"),
    "max_position_embeddings": (512, "max_position_embeddings"),
    "mlp_bias": (True, "tensors"),
    "model_type": ("mistral", "refused"),
    "num_attention_heads": (8, "tensors"),
    "num_hidden_layers": (3, "tensors"),
    "num_key_value_heads": (4, "tensors"),
    "rms_norm_eps": (1e-2, "outputs"),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 100.0}, "outputs"),
    "rope_scaling": (llamas.LLAMA3_ROPE, "outputs"),
    "rope_theta": (100.0, "outputs"),
    "tie_word_embeddings": (True, "tensors"),
    "vocab_size": (161, "tensors"),
}


@pytest.mark.parametrize("name", sorted(model_config.READ))
def test_changing_a_field_that_is_read_shows(name: str) -> None:
    value, shown_by = READ[name]
    fields = dict(FIELDS)
    if name == "rope_parameters":  # the other spelling of these two
        del fields["rope_theta"], fields["rope_scaling"]
    base, changed = dict(fields), fields | {name: value}
    if shown_by == "refused":
        model_config.from_dict(base)
        with pytest.raises(NotImplementedError, match=f"{name}={value!r}"):
            model_config.from_dict(changed)
    elif shown_by == "tensors":
        assert shapes(changed) != shapes(base)
        assert shapes(changed) == hugging_face_shapes(changed)
    elif shown_by == "outputs":
        assert np.abs(outputs(changed) - outputs(base)).max() > 1e-2
    else:
        seen, was = model_config.from_dict(changed), model_config.from_dict(base)
        assert getattr(seen, shown_by) != getattr(was, shown_by)


HARMLESS: dict[str, Any] = {
    "_attn_implementation": "sdpa",
    "_attn_implementation_autoset": True,
    "_name_or_path": "somewhere/else",
    "architectures": ["LlamaForSequenceClassification"],
    "attention_dropout": 0.5,
    "bos_token_id": 5,
    "do_sample": True,
    "dtype": "float16",
    "id2label": {"0": "a"},
    "initializer_range": 0.5,
    "label2id": {"a": 0},
    "max_length": 4096,
    "output_attentions": True,
    "output_hidden_states": True,
    "pad_token_id": 7,
    "pretraining_tp": 2,
    "problem_type": "regression",
    "return_dict": False,
    "temperature": 0.9,
    "tokenizer_class": "LlamaTokenizer",
    "top_p": 0.6,
    "torch_dtype": "float16",
    "torchscript": True,
    "transformers_version": "4.0.0",
    "unsloth_fixed": True,
    "unsloth_version": "2024.9",
    "use_bfloat16": True,
    "use_cache": False,
}


@pytest.mark.parametrize("name", sorted(model_config.HARMLESS))
def test_changing_a_harmless_field_changes_nothing(name: str) -> None:
    changed = FIELDS | {name: HARMLESS[name]}
    # The configuration is all that the model and the engine see of the file.
    assert model_config.from_dict(changed) == model_config.from_dict(FIELDS)


def test_a_field_is_on_one_list_and_every_entry_is_tested() -> None:
    assert set(READ) == model_config.READ
    assert set(HARMLESS) == model_config.HARMLESS
    lists = (model_config.READ, model_config.HARMLESS, frozenset(model_config._ONLY))
    assert sum(map(len, lists)) == len(frozenset.union(*lists))


@pytest.mark.parametrize("name", sorted(model_config._ONLY))
def test_a_field_with_one_harmless_value_is_refused_at_others(name: str) -> None:
    for value in model_config._ONLY[name]:
        assert model_config.from_dict(FIELDS | {name: value}) == model_config.from_dict(FIELDS)
    other = {"quantization_config": {"bits": 4}, "is_decoder": "maybe"}.get(name, 0.25)
    with pytest.raises(NotImplementedError, match=f"{name}="):
        model_config.from_dict(FIELDS | {name: other})


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown": ({"rope_thetas": 1.0}, ValueError, r"unknown fields \['rope_thetas'\].*take them"),
    "no model type": ({"model_type": None}, NotImplementedError, "model_type=None"),
    "a wrong type": ({"hidden_size": "64"}, ValueError, "hidden_size"),
    "heads": ({"num_key_value_heads": 3}, ValueError, "num_key_value_heads=3"),
    "dynamic": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        NotImplementedError,
        "rope_type='dynamic'",
    ),
    "longrope": (
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
        NotImplementedError,
        "rope_type='longrope'",
    ),
    "linear with more": (
        {"rope_scaling": {**llamas.LINEAR_ROPE, "original_max_position_embeddings": 32}},
        NotImplementedError,
        r"'linear' with \['original_max_position_embeddings'\]",
    ),
    "yarn with more": (
        {"rope_scaling": {**llamas.YARN_ROPE, "finetuned": True}},
        NotImplementedError,
        r"'yarn' with \['finetuned'\]",
    ),
    "yarn without a factor": ({"rope_scaling": {"rope_type": "yarn"}}, ValueError, "factor"),
    "yarn without a length": (
        {"rope_scaling": {**llamas.YARN_ROPE, "original_max_position_embeddings": None}},
        ValueError,
        "config.json: .*validate_rope",  # by transformers itself
    ),
    "a factor for nothing": ({"rope_scaling": {"factor": 2.0}}, NotImplementedError, "factor"),
    "a missing factor": ({"rope_scaling": {"rope_type": "llama3"}}, ValueError, "factor"),
    "partial rotation": (
        {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        NotImplementedError,
        "partial_rotary_factor",
    ),
    "two thetas": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        ValueError,
        "two values for rope_theta",
    ),
    "two types": (
        {"rope_scaling": {**llamas.LLAMA3_ROPE, "type": "default"}},
        ValueError,
        "two values for rope_type",
    ),
    "two spellings": (
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "rope_scaling": llamas.LLAMA3_ROPE,
        },
        ValueError,
        "rope_parameters and rope_scaling differ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_in_one_line(case: str) -> None:
    change, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said) as error:
        model_config.from_dict(FIELDS | change)
    assert "\n" not in str(error.value)


def test_reading_leaves_the_fields_alone() -> None:
    fields = FIELDS | {"rope_scaling": dict(llamas.LLAMA3_ROPE)}
    before = json.dumps(fields)
    model_config.from_dict(fields)
    assert json.dumps(fields) == before


def test_eos_comes_from_the_generation_config_first(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    assert model_config.read(tmp_path).eos_token_ids == (2,)
    generation = tmp_path / "generation_config.json"
    generation.write_text('{"eos_token_id": [128001, 128009]}')
    assert model_config.read(tmp_path).eos_token_ids == (128001, 128009)
    generation.write_text('{"temperature": 0.6}')
    assert model_config.read(tmp_path).eos_token_ids == (2,)


def test_files_that_are_no_config_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        model_config.read(tmp_path)
    for text in ("", "{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json: not"):
            model_config.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be above 0"),
        ({"hidden_size": -64}, "hidden_size=-64"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0"),
        ({"rope_theta": 0.0}, "rope_theta=0.0"),
        ({"rope_scaling": {**llamas.LLAMA3_ROPE, "low_freq_factor": 4.0}}, "low_freq_factor must"),
        ({"rope_scaling": {**llamas.LINEAR_ROPE, "factor": True}}, "factor=True"),
        ({"rope_scaling": {**llamas.LINEAR_ROPE, "factor": "2"}}, "factor='2'"),
        ({"rope_scaling": {**llamas.LINEAR_ROPE, "factor": math.inf}}, "factor=inf"),
        ({"rope_scaling": {**llamas.YARN_ROPE, "attention_factor": 0.0}}, "attention_factor=0.0"),
        ({"rope_scaling": {**llamas.YARN_ROPE, "mscale": -1.0}}, r"mscale=-1\.0"),
        ({"rope_scaling": {**llamas.YARN_ROPE, "beta_fast": 0.1}}, "beta_fast=0.1 must not be"),
        ({"rope_scaling": {**llamas.YARN_ROPE, "rope_theta": 1.0}}, "rope_theta=1.0 must be above"),
        ({"rope_scaling": {**llamas.YARN_ROPE, "truncate": "no"}}, "truncate='no'"),
        ({"eos_token_id": 2.0}, "eos_token_id"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    fields = {**FIELDS, **change}
    if "rope_scaling" in change:
        del fields["rope_theta"]
    with pytest.raises(ValueError, match=message):
        model_config.from_dict(fields)


def test_code_of_its_own_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="auto_map"):
        model_config.from_dict({**FIELDS, "auto_map": {"AutoModel": "x.Y"}})
