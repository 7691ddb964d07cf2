"""What a `config.json` may not say: each refusal is one line that names the field."""

import json
import math
import pathlib
import re
from typing import Any

import llamas
import pytest

from star_jax import models
from star_jax.models import config_reader

FIELDS = llamas.VARIANTS["llama-3"]


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
    "longrope with too few factors": (
        {"rope_scaling": {**llamas.LONG_ROPE, "short_factor": [1.0]}},
        ValueError,
        "short_factor has 1 values, not 8: one for each frequency",
    ),
    "longrope without factors": (
        {"rope_scaling": {**llamas.LONG_ROPE, "long_factor": None}},
        ValueError,
        "long_factor=None must be a list",
    ),
    "longrope without one of the lists": (
        {"rope_scaling": {f: x for f, x in llamas.LONG_ROPE.items() if f != "short_factor"}},
        ValueError,
        "short_factor",
    ),
    "longrope with more": (
        {"rope_scaling": {**llamas.LONG_ROPE, "long_mscale": 1.2}},
        NotImplementedError,
        r"'longrope' with \['long_mscale'\]",
    ),
    "linear with more": (
        {"rope_scaling": {**llamas.LINEAR_ROPE, "low_freq_factor": 1.0}},
        NotImplementedError,
        r"'linear' with \['low_freq_factor'\]",
    ),
    "an unknown field that is null": (
        {"rope_scaling": {**llamas.LLAMA3_ROPE, "mystery": None}},
        NotImplementedError,
        r"'llama3' with \['mystery'\]",
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
        models.from_dict(FIELDS | change)
    assert "\n" not in str(error.value)


def test_files_that_are_no_config_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        models.read(tmp_path)
    deep = "[" * 100_000 + "]" * 100_000
    wrong = ["", "{", "[]", '"a"', '{"a": 1, "a": 1}', '{"a": \xff}', '{"a": ' + "9" * 5000 + "}"]
    for text in (*wrong, deep, f'{{"a": {deep}}}', '{"a":' * 100_000 + "1" + "}" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"config\.json: not") as error:
            models.read(tmp_path)
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
        ({"head_dim": 15}, "even .*head_dim.=15|head_dim=15 must be even"),
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
        ({"rope_scaling": {**llamas.LONG_ROPE, "long_factor": 2.0}}, "long_factor=2.0 must be a"),
        ({"rope_scaling": {**llamas.LONG_ROPE, "long_factor": [0.0] * 8}}, "long_factor=0.0 must"),
        ({"rope_scaling": {**llamas.LONG_ROPE, "short_factor": ["1"] * 8}}, "short_factor='1'"),
        (
            {"rope_scaling": {**llamas.LONG_ROPE, "original_max_position_embeddings": 1}},
            "original_max_position_embeddings=1 must be above 1",
        ),
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
        models.from_dict(fields)
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
            models.read(tmp_path)
    (tmp_path / where).write_text(json.dumps(kept | {"eos_token_id": [2, 160]}))
    with pytest.warns(UserWarning, match=f"star_jax: {where}: eos_token_id=.* 160 is outside"):
        assert models.read(tmp_path).eos_token_ids == (2, 160)
    for bos in (-1, 160, 10**11):
        (tmp_path / where).write_text(json.dumps(kept | {"bos_token_id": bos}))
        with pytest.warns(UserWarning, match=f"star_jax: {where}: bos_token_id={bos} is outside"):
            models.read(tmp_path)


def test_an_eos_that_is_not_used_is_not_checked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | {"eos_token_id": -1}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert models.read(tmp_path).eos_token_ids == (7,)


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
            models.from_dict(FIELDS | fields)
        assert str(error.value).isprintable()
    (tmp_path / "config.json").write_text(json.dumps({evil: 1})[:-1] + f", {json.dumps(evil)}: 2}}")
    with pytest.raises(ValueError, match="duplicate") as error:
        models.read(tmp_path)
    assert str(error.value).isprintable()


def test_code_of_its_own_is_refused() -> None:
    fields = llamas.VARIANTS["phi3"]
    with pytest.raises(NotImplementedError, match="auto_map"):
        models.from_dict({**fields, "auto_map": {"AutoModelForCausalLM": "modeling_x.Phi3"}})
    with pytest.raises(NotImplementedError, match="auto_map"):
        models.from_dict({**FIELDS, "auto_map": {"AutoModel": "x.Y"}})


@pytest.mark.parametrize(
    "section",
    [{**llamas.LLAMA3_ROPE, "low_freq_factor": 4.0}, {**llamas.YARN_ROPE, "beta_slow": 64}],
)
def test_an_order_is_checked_before_transformers_logs_it(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_reader, "_filled_in", None)
    with pytest.raises(ValueError, match=r"must (not )?be below"):
        models.from_dict({**FIELDS, "rope_scaling": section})


@pytest.mark.parametrize(
    ("variant", "change", "said"),
    [
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers=[1] must be one for each of 4 layers"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 2]}, "no_rope_layers=[1, 1, 1, 2] must be of 0"),
        ("smollm3", {"no_rope_layers": [True] * 4}, "must be a list of int"),
        ("smollm3", {"no_rope_layers": "1110"}, "no_rope_layers='1110' must be a list of int"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval=0 must be above 0"),
        ("qwen2.5", {"layer_types": [None, None]}, "must be a list of str"),
        ("qwen3", {"layer_types": ["full_attention"]}, "must be one for each of 2 layers"),
        ("granite", {"residual_multiplier": math.nan}, "residual_multiplier=nan must be a number"),
        ("phi3", {"partial_rotary_factor": 0.2}, "partial_rotary_factor=0.2 of head_dim=16 must"),
        ("phi3", {"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5 of head_dim=16 must"),
        ("phi3", {"partial_rotary_factor": True}, "partial_rotary_factor=True must be a number"),
        (
            "phi4-mini",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_parameters and rope_scaling differ",
        ),
        (
            "phi4-mini-short",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
            "two values for partial_rotary_factor, 0.5 and 0.75",
        ),
        (
            "phi3.5",
            {"rope_scaling": llamas.LONG_ROPE | {"original_max_position_embeddings": 32}},
            "two values for original_max_position_embeddings, 64 and 32",
        ),
        ("granite", {"logits_scaling": 0}, "logits_scaling=0 must be a number above 0"),
        ("granite", {"attention_multiplier": -1.0}, "attention_multiplier=-1.0 must be a number"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok=5 is more than the 4 experts"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts=0 must be above 0"),
        ("qwen3-moe", {"num_local_experts": 4}, "num_experts and num_local_experts differ: [8, 4]"),
        ("qwen3-moe", {"mlp_only_layers": [-1]}, "mlp_only_layers=[-1] must be indices of layers"),
        ("qwen3-moe", {"mlp_only_layers": 1}, "mlp_only_layers"),
        ("qwen3-moe", {"decoder_sparse_step": 0}, "decoder_sparse_step=0 must be above 0"),
        ("qwen3-moe", {"norm_topk_prob": 1}, "norm_topk_prob=1 must be true or false"),
    ],
)
def test_what_cannot_be_in_a_family_is_named(
    variant: str, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models.from_dict({**llamas.VARIANTS[variant], **change})


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("section", [llamas.YARN_ROPE, llamas.LINEAR_ROPE])
def test_a_rope_that_a_family_has_not_is_refused_by_its_own_name(
    section: dict[str, Any], name: str
) -> None:
    """transformers would take YaRN for LongRoPE."""
    fields = {**llamas.VARIANTS["phi3"], name: section}
    said = f"rope_type='{section['rope_type']}' in {name} is not supported for phi3, only "
    with pytest.raises(NotImplementedError, match=re.escape(said)):
        models.from_dict(fields)


def test_null_is_an_untied_head_where_transformers_ties_one_by_default() -> None:
    fields = {**llamas.VARIANTS["smollm3"], "tie_word_embeddings": None}
    assert models.from_dict(fields).tie_word_embeddings is False
    del fields["tie_word_embeddings"]
    assert models.from_dict(fields).tie_word_embeddings is True
