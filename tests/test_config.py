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


# Of the types that a field has in the wild, and of others: nobody looks at it.
ANYTHING: list[Any] = [
    None,
    True,
    -1,
    0.25,
    math.nan,
    10**400,
    "1",
    "gelu",
    [1, 2],
    {"a": [{}]},
    {},
]
# Fields of widely used checkpoints of this architecture that no list may lose.
CARRIED = """
    _flash_attn_2_enabled _name_or_path _rope_scaling_validation architectures
    attention_dropout bos_token_id do_sample dtype early_stopping gradient_checkpointing id2label
    initializer_range is_llama_config max_length max_sequence_length num_beams
    num_return_sequences output_scores pad_token_id pretraining_tp problem_type
    repetition_penalty return_dict sep_token_id temperature tokenizer_class top_k top_p torch_dtype
    torchscript transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed
    unsloth_version use_cache
""".split()


@pytest.mark.filterwarnings("ignore:star_jax. config.json. bos_token_id=")
@pytest.mark.parametrize("name", sorted(model_config.HARMLESS))
def test_a_harmless_field_changes_nothing_whatever_its_value(name: str) -> None:
    expected = model_config.from_dict(FIELDS)
    for value in ANYTHING:
        # The configuration is all that the model and the engine see of the file.
        assert model_config.from_dict(FIELDS | {name: value}) == expected


def test_a_field_is_on_one_list() -> None:
    assert set(READ) == model_config.READ
    assert set(CARRIED) <= model_config.HARMLESS
    lists = (model_config.READ, model_config.HARMLESS, frozenset(model_config.ONLY))
    assert sum(map(len, lists)) == len(frozenset.union(*lists))


def test_only_fields_that_are_read_reach_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    parse = transformers.LlamaConfig.from_dict

    def spy(fields: dict[str, Any]) -> transformers.LlamaConfig:
        seen.extend(fields)
        return parse(fields)

    monkeypatch.setattr(transformers.LlamaConfig, "from_dict", spy)
    known = {name: values[0] for name, values in model_config.ONLY.items()}
    model_config.from_dict(FIELDS | dict.fromkeys(model_config.HARMLESS, "x") | known)
    assert seen
    assert set(seen) <= model_config.READ


@pytest.mark.parametrize("name", sorted(model_config.ONLY))
def test_a_field_with_one_harmless_value_is_refused_at_others(name: str) -> None:
    for value in model_config.ONLY[name]:
        assert model_config.from_dict(FIELDS | {name: value}) == model_config.from_dict(FIELDS)
    other = {"quantization_config": {"bits": 4}, "is_decoder": "maybe"}.get(name, 0.25)
    for value in (other, [[]], "None", math.nan):
        with pytest.raises(NotImplementedError, match=f"{name}="):
            model_config.from_dict(FIELDS | {name: value})


def test_true_is_not_1_nor_false_0() -> None:
    for name, value in (("partial_rotary_factor", True), ("use_sliding_window", 0)):
        with pytest.raises(NotImplementedError, match=f"{name}={value!r}"):
            model_config.from_dict(FIELDS | {name: value})


@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias", "tie_word_embeddings"])
def test_null_is_false(name: str) -> None:
    assert model_config.from_dict(FIELDS | {name: None}) == model_config.from_dict(FIELDS)


@pytest.mark.parametrize("name", ["head_dim", "num_key_value_heads", "rope_scaling"])
def test_null_is_absent(name: str) -> None:
    without = {key: value for key, value in FIELDS.items() if key != name}
    assert model_config.from_dict(FIELDS | {name: None}) == model_config.from_dict(without)


def test_what_is_harmless_in_a_section_of_rope() -> None:
    for extra in ({"finetuned": True}, {"partial_rotary_factor": 1.0}):
        section = {"rope_scaling": llamas.YARN_ROPE | extra}
        plain = {"rope_scaling": llamas.YARN_ROPE}
        assert model_config.from_dict(FIELDS | section) == model_config.from_dict(FIELDS | plain)


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
        {"rope_scaling": {**llamas.YARN_ROPE, "extrapolation_factor": 1.0}},
        NotImplementedError,
        r"'yarn' with \['extrapolation_factor'\]",
    ),
    "yarn that grows as it goes": (
        {"rope_scaling": {**llamas.YARN_ROPE, "finetuned": False}},
        NotImplementedError,
        "finetuned=False in rope_scaling",
    ),
    "a type that is no string": (
        {"rope_scaling": {"rope_type": ["yarn"]}},
        ValueError,
        r"rope_type=\['yarn'\] must be a string",
    ),
    "a section that is a list": ({"rope_scaling": []}, ValueError, r"rope_scaling=\[\] must be"),
    "a section per kind of layer": (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        NotImplementedError,
        "with .'full_attention'. is not supported",
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
    deep = "[" * 100_000 + "]" * 100_000
    wrong = ["", "{", "[]", '"a"', '{"a": 1, "a": 1}', '{"a": \xff}', '{"a": ' + "9" * 5000 + "}"]
    for text in (*wrong, deep, f'{{"a": {deep}}}', '{"a":' * 100_000 + "1" + "}" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"config\.json: not") as error:
            model_config.read(tmp_path)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be above 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be above 0, and at most"),
        ({"num_hidden_layers": 1e9}, r"num_hidden_layers=1000000000\.0 must be an integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True must be an integer"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be above 0"),
        ({"num_attention_heads": None}, "num_attention_heads=None must be an integer"),
        ({"vocab_size": 10**400}, "vocab_size=1000.* must be above 0, and at most"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings=2147483648 must be"),
        ({"head_dim": 15}, "even .*head_dim.=15"),
        ({"head_dim": "16"}, "head_dim='16' must be an integer"),
        ({"hidden_size": 4, "num_attention_heads": 8, "num_key_value_heads": 8}, "hidden size"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps=nan must be a number above 0"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps=inf must be a number above 0"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps=0.0 must be a number above 0"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05 must be a number above 0"),
        ({"rms_norm_eps": 1e-46}, "rms_norm_eps=1e-46 must be a number above 0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a number above 0"),
        ({"rms_norm_eps": None}, "rms_norm_eps=None must be a number above 0"),
        ({"rope_theta": math.nan}, "rope_theta=nan must be a number above 0"),
        ({"rope_theta": 10**400}, "rope_theta=1000.* must be a number above 0"),
        ({"rope_theta": 1e39}, "rope_theta=1e.39 must be a number above 0"),
        ({"rope_theta": [1.0]}, r"rope_theta=\[1.0\] must be a number above 0"),
        ({"attention_bias": 1}, "attention_bias=1 must be true or false"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
        ({"rope_scaling": {**llamas.LLAMA3_ROPE, "factor": math.nan}}, "factor=nan must be"),
        ({"rope_scaling": {**llamas.LINEAR_ROPE, "factor": -2.0}}, "factor=-2.0 must be"),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": None,
                    "original_max_position_embeddings": 1e-37,
                }
            },
            "factor=.* must be a number above 0",
        ),
        (
            {
                "rope_scaling": {
                    **llamas.YARN_ROPE,
                    "mscale": 1.7e38,
                    "mscale_all_dim": 1e-9,
                    "factor": 1e38,
                }
            },
            "attention_factor=",
        ),
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
        ({"eos_token_id": -1}, "eos_token_id=-1: -1 is no token id"),
        ({"eos_token_id": [2, 99999999999]}, "99999999999 is no token id"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    fields = {**FIELDS, **change}
    if "rope_scaling" in change:
        del fields["rope_theta"]
    with pytest.raises(ValueError, match=message) as error:
        model_config.from_dict(fields)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
def test_ids_beyond_the_vocabulary_are_named_with_their_file(
    where: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    kept = FIELDS if where == "config.json" else {}
    for eos in (-1, [2, 10**11]):
        (tmp_path / where).write_text(json.dumps(kept | {"eos_token_id": eos}))
        with pytest.raises(ValueError, match=f"^{where}: eos_token_id=.* is no token id"):
            model_config.read(tmp_path)
    (tmp_path / where).write_text(json.dumps(kept | {"eos_token_id": [2, 160]}))
    with pytest.warns(UserWarning, match=f"star_jax: {where}: eos_token_id=.* 160 is outside"):
        assert model_config.read(tmp_path).eos_token_ids == (2, 160)
    for bos in (-1, 160, 10**11):
        (tmp_path / where).write_text(json.dumps(kept | {"bos_token_id": bos}))
        with pytest.warns(UserWarning, match=f"star_jax: {where}: bos_token_id={bos} is outside"):
            model_config.read(tmp_path)


def test_an_eos_that_is_not_used_is_not_checked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | {"eos_token_id": -1}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert model_config.read(tmp_path).eos_token_ids == (7,)


def test_nothing_of_a_file_steers_the_terminal(tmp_path: pathlib.Path) -> None:
    evil = "\x1b]0;title\x07\u202e"
    for fields in (
        {evil: 1},
        {"hidden_act": evil},
        {"model_type": evil},
        {"rope_scaling": {"rope_type": evil}},
        {"rope_scaling": {**llamas.LINEAR_ROPE, evil: 1}},
        {"hidden_size": {evil: evil}},
        {"eos_token_id": evil},
    ):
        with pytest.raises((ValueError, NotImplementedError)) as error:
            model_config.from_dict(FIELDS | fields)
        assert str(error.value).isprintable()
    (tmp_path / "config.json").write_text(json.dumps({evil: 1})[:-1] + f", {json.dumps(evil)}: 2}}")
    with pytest.raises(ValueError, match="duplicate") as error:
        model_config.read(tmp_path)
    assert str(error.value).isprintable()


def test_code_of_its_own_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="auto_map"):
        model_config.from_dict({**FIELDS, "auto_map": {"AutoModel": "x.Y"}})
