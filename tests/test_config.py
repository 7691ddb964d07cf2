"""Every field of a `config.json` is read, harmless or refused; none is ignored in silence."""

import json
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import llamas
import numpy as np
import published
import pytest
import transformers
from further import further
from odd_files import ODD
from test_config_published import hugging_face_shapes, shapes

from star_jax import models
from star_jax.models import config_fields

FIELDS = llamas.VARIANTS["llama-3"]
FIELDS_OF = {
    "llama": FIELDS,
    "mistral": llamas.VARIANTS["mistral-v0.3"],
    "qwen2": llamas.VARIANTS["qwen2.5-window"],
    "qwen3": {**llamas.VARIANTS["qwen3-window"], "layer_types": None},
    "phi3": llamas.VARIANTS["phi3"],
    "granite": llamas.VARIANTS["granite"],
    "smollm3": {
        **llamas.VARIANTS["smollm3-window"],
        "num_hidden_layers": 2,
        "no_rope_layer_interval": 2,
    },
    "olmo2": llamas.VARIANTS["olmo2"],
    "seed_oss": llamas.VARIANTS["seed-oss"],
    "gemma2": llamas.VARIANTS["gemma2"],
    "gemma3_text": llamas.VARIANTS["gemma3"],
    "gemma3": llamas.VARIANTS["gemma3-images"],
    "mixtral": llamas.VARIANTS["mixtral"],
    "qwen3_moe": {
        **llamas.VARIANTS["qwen3-moe"],
        "mlp_only_layers": [0],
        "sliding_window": 30,
        "use_sliding_window": True,
    },
}


def outputs(fields: dict[str, Any]) -> np.ndarray:
    """Logits of a model whose weights depend only on their names and shapes."""

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
        x = np.random.default_rng(list(name.encode())).normal(size=shape)
        return jnp.asarray(1 + 0.2 * x if "norm" in name else x / np.sqrt(shape[-1]), jnp.float32)

    model = models.build(models.from_dict(fields), make)
    return llamas.our_logits(model, np.arange(60)[None])


# A second value of every field that is read, and what must show it: the model's outputs, its
# tensors, what the engine sees, or a refusal.
READ: dict[str, tuple[Any, str]] = {
    "attention_bias": (None, "tensors"),  # the other one
    "attention_out_bias": (True, "tensors"),
    "attention_multiplier": (0.5, "outputs"),
    "attn_logit_softcapping": (0.1, "outputs"),
    "decoder_sparse_step": (3, "tensors"),
    "embedding_multiplier": (3.0, "outputs"),
    "eos_token_id": ([2, 5], "eos_token_ids"),
    "final_logit_softcapping": (0.5, "outputs"),
    "head_dim": (32, "tensors"),
    "hidden_act": ("gelu", "refused"),
    "hidden_size": (96, "tensors"),
    "intermediate_size": (64, "tensors"),
    "layer_types": (["sliding_attention"], "outputs"),
    "logits_scaling": (2.0, "outputs"),
    "max_position_embeddings": (512, "max_position_embeddings"),
    "max_window_layers": (0, "outputs"),
    "mlp_bias": (True, "tensors"),
    "mlp_only_layers": ([1], "tensors"),
    "model_type": ("gpt2", "refused"),
    "no_rope_layer_interval": (3, "outputs"),
    "moe_intermediate_size": (32, "tensors"),
    "no_rope_layers": ([0, 1], "outputs"),
    "norm_topk_prob": (False, "outputs"),
    "num_attention_heads": (8, "tensors"),
    "num_experts": (6, "tensors"),
    "num_experts_per_tok": (1, "outputs"),
    "num_hidden_layers": (4, "tensors"),
    "original_max_position_embeddings": (32, "outputs"),
    "partial_rotary_factor": (0.5, "outputs"),
    "num_key_value_heads": (4, "tensors"),
    "num_local_experts": (6, "tensors"),
    "query_pre_attn_scalar": (2, "outputs"),
    "residual_multiplier": (0.5, "outputs"),
    "rms_norm_eps": (0.3, "outputs"),
    "rope_local_base_freq": (3.0, "outputs"),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 100.0}, "outputs"),
    "rope_scaling": (llamas.LLAMA3_ROPE, "outputs"),
    "rope_theta": (100.0, "outputs"),
    "sliding_window": (5, "outputs"),
    "sliding_window_pattern": (2, "outputs"),
    "tie_word_embeddings": (None, "tensors"),  # the other one
    "use_sliding_window": (False, "outputs"),
    "vocab_size": (161, "tensors"),
}


# What families share is read by the same lines: of these fields Llama stands for all of them.
SHARED = {
    "harmless": config_fields.HARMLESS,
    "only": frozenset(config_fields.ONLY),
    "read": frozenset(
        """
        eos_token_id hidden_act hidden_size intermediate_size max_position_embeddings model_type
        num_hidden_layers vocab_size
        """.split()
    ),
}


def on_list(which: str, *, shared: bool = False) -> list[tuple[str, str]]:
    """Each field on a list of a family."""
    return [
        (f.name, field)
        for f in models.families().values()
        for field in sorted(getattr(f, which))
        if shared or f.name == "llama" or field not in SHARED[which]
    ]


def with_field(fields: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The fields with another value of one, where it belongs."""
    if "text_config" in fields and name not in (
        "eos_token_id",
        "model_type",
        "tie_word_embeddings",
    ):
        return {**fields, "text_config": {**fields["text_config"], name: value}}
    return {**fields, name: value}


# What must be there for a field to be of use.
BESIDE = {"original_max_position_embeddings": {"rope_scaling": llamas.PHI_LONG_ROPE}}


def once(fields: list[tuple[str, str]]) -> list[Any]:
    """A field of several families is tried in one of them; `make test-large` tries all."""
    first = {name: (family, name) for family, name in reversed(fields)}
    return [*first.values(), *further(*(one for one in fields if first[one[1]] != one))]


@pytest.mark.parametrize(("family", "name"), once(on_list("read")))
def test_changing_a_field_that_is_read_shows(family: str, name: str) -> None:
    value, shown_by = READ[name]
    fields = FIELDS_OF[family] | BESIDE.get(name, {})
    if name == "rope_parameters":  # the other spelling of these two
        for field in ("rope_theta", "rope_scaling"):
            fields = with_field(fields, field, None)
    if (family, name) == ("qwen3_moe", "num_local_experts"):  # as transformers spells the other
        del fields["num_experts"]
    if name == "layer_types":
        value = value * models.from_dict(fields).num_layers
    if name in ("attention_bias", "tie_word_embeddings"):
        value = not fields.get(name, name != "attention_bias")
    if name == "rope_parameters" and models.family_of(family).local_rope:
        value = {"full_attention": value}
    base, changed = dict(fields), with_field(fields, name, value)
    if (family, name) == ("phi3", "rope_scaling"):
        with pytest.raises(NotImplementedError, match="rope_type='llama3' in rope_scaling"):
            models.from_dict(changed)
        return
    if shown_by == "refused":
        models.from_dict(base)
        with pytest.raises(NotImplementedError, match=re.escape(f"{name}={value!r}")):
            models.from_dict(changed)
    elif shown_by == "tensors":
        assert shapes(changed) != shapes(base)
        assert shapes(changed) == hugging_face_shapes(changed)
    elif shown_by == "outputs":
        assert np.abs(outputs(changed) - outputs(base)).max() > 1e-2
    else:
        seen, was = models.from_dict(changed), models.from_dict(base)
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
@pytest.mark.parametrize(("family", "name"), once(on_list("harmless")))
def test_a_harmless_field_changes_nothing_whatever_its_value(family: str, name: str) -> None:
    fields = FIELDS_OF[family]
    expected = models.from_dict(fields)
    for value in ANYTHING:
        # The configuration is all that the model and the engine see of the file.
        assert models.from_dict(fields | {name: value}) == expected


@pytest.mark.filterwarnings("ignore:star_jax. config.json. bos_token_id=")
@pytest.mark.parametrize("family", models.families())
def test_harmless_fields_change_nothing_all_at_once(family: str) -> None:
    fields, names = FIELDS_OF[family], models.families()[family].harmless
    expected = models.from_dict(fields)
    for value in ANYTHING:
        assert models.from_dict(fields | dict.fromkeys(names, value)) == expected


def test_a_field_is_on_one_list() -> None:
    assert set(FIELDS_OF) == set(models.families())
    assert set(READ) == {name for _, name in on_list("read", shared=True)}
    for family in models.families().values():
        assert set(CARRIED) <= family.harmless
        lists = (family.read, family.harmless, frozenset(family.only))
        assert sum(map(len, lists)) == len(frozenset.union(*lists))


@pytest.mark.parametrize("family", models.families())
def test_only_fields_that_are_read_reach_transformers(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    lists = models.families()[family]
    hugging_face = getattr(transformers, lists.hf_config)
    parse = hugging_face.from_dict

    def spy(fields: dict[str, Any]) -> transformers.PreTrainedConfig:
        seen.extend(fields)
        return parse(fields)

    monkeypatch.setattr(hugging_face, "from_dict", spy)
    known = {name: values[0] for name, values in lists.only.items()}
    models.from_dict(FIELDS_OF[family] | dict.fromkeys(lists.harmless, "x") | known)
    assert seen
    assert set(seen) <= lists.read


@pytest.mark.parametrize(("family", "name"), on_list("only"))
def test_a_field_with_one_harmless_value_is_refused_at_others(family: str, name: str) -> None:
    fields = FIELDS_OF[family]
    for value in models.families()[family].only[name]:
        assert models.from_dict(fields | {name: value}) == models.from_dict(fields)
    other = {"quantization_config": {"bits": 4}, "is_decoder": "maybe"}.get(name, 0.25)
    for value in (other, [[]], "None", math.nan):
        with pytest.raises(NotImplementedError, match=f"{name}="):
            models.from_dict(fields | {name: value})


def test_a_window_that_is_not_said_is_what_transformers_fills_in() -> None:
    fields = dict(FIELDS_OF["mistral"], max_position_embeddings=8192)
    del fields["sliding_window"]
    found = models.from_dict(fields)
    assert found.window == llamas.hf_config(fields).sliding_window == 4096
    assert found.windowed == {0, 1}
    for odd in (0, -1, True, "4096", [4096], 1.5):
        with pytest.raises(ValueError, match="sliding_window"):
            models.from_dict(fields | {"sliding_window": odd})


def test_windows_need_a_size_and_layers_a_kind_that_is_known() -> None:
    fields = llamas.VARIANTS["qwen3-window"]
    for change in ({"sliding_window": None}, {"use_sliding_window": False}):
        with pytest.raises(ValueError, match="there is no sliding_window"):
            models.from_dict(fields | change)
    kinds = ["full_attention", "chunked_attention"]
    with pytest.raises(NotImplementedError, match="'chunked_attention'"):
        models.from_dict(fields | {"layer_types": kinds})


def test_fields_of_text_must_be_in_its_section() -> None:
    fields = FIELDS_OF["gemma3"]
    with pytest.raises(ValueError, match=r"\['hidden_size'\] must be in text_config"):
        models.from_dict(fields | {"hidden_size": 64})
    for section, said in ((None, "must be an object"), ({"model_type": "llama"}, "model_type=")):
        with pytest.raises((ValueError, NotImplementedError), match=said):
            models.from_dict(fields | {"text_config": section})


def test_a_copy_may_say_whose_code_it_has() -> None:
    """As the files of fine-tunes do; it is the code that transformers has, and is not run."""
    fields = published.CONFIGS["Phi-3-mini-4k-instruct"]
    code = {key: f"microsoft/Phi-3--{name}" for key, name in fields["auto_map"].items()}
    assert models.from_dict(fields | {"auto_map": code}) == models.from_dict(fields)
    with pytest.raises(NotImplementedError, match="auto_map"):
        models.from_dict(fields | {"auto_map": {"AutoModel": "mine--modeling_mine.Model"}})


def test_a_window_that_hides_nothing_is_none() -> None:
    fields = llamas.VARIANTS["phi3.5"]
    longest = fields["max_position_embeddings"]
    for window in (longest, longest + 1, 262144, None):
        assert models.from_dict({**fields, "sliding_window": window}).window is None
    assert models.from_dict({**fields, "sliding_window": longest - 1}).window == longest - 1


def test_positions_that_change_chunk_by_chunk_are_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match="dual_chunk_attention_config="):
        models.from_dict(published.QWEN25_7B_1M)


def test_true_is_not_1_nor_false_0() -> None:
    for name, value in (("partial_rotary_factor", True), ("use_sliding_window", 0)):
        with pytest.raises(NotImplementedError, match=f"{name}={value!r}"):
            models.from_dict(FIELDS | {name: value})


@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias", "tie_word_embeddings"])
def test_null_is_false(name: str) -> None:
    assert models.from_dict(FIELDS | {name: None}) == models.from_dict(FIELDS)


@pytest.mark.parametrize("name", ["head_dim", "num_key_value_heads", "rope_scaling"])
def test_null_is_absent(name: str) -> None:
    without = {key: value for key, value in FIELDS.items() if key != name}
    assert models.from_dict(FIELDS | {name: None}) == models.from_dict(without)


def test_what_is_harmless_in_a_section_of_rope() -> None:
    for extra in ({"finetuned": True}, {"partial_rotary_factor": 1.0}):
        section = {"rope_scaling": llamas.YARN_ROPE | extra}
        plain = {"rope_scaling": llamas.YARN_ROPE}
        assert models.from_dict(FIELDS | section) == models.from_dict(FIELDS | plain)


def test_reading_leaves_the_fields_alone() -> None:
    fields = FIELDS | {"rope_scaling": dict(llamas.LLAMA3_ROPE)}
    before = json.dumps(fields)
    models.from_dict(fields)
    assert json.dumps(fields) == before


def test_eos_comes_from_the_generation_config_first(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    assert models.read(tmp_path).eos_token_ids == (2,)
    generation = tmp_path / "generation_config.json"
    generation.write_text('{"eos_token_id": [128001, 128009]}')
    assert models.read(tmp_path).eos_token_ids == (128001, 128009)
    generation.write_text('{"temperature": 0.6}')
    assert models.read(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize("odd", ODD)
def test_a_generation_config_that_is_no_file_is_refused(tmp_path: pathlib.Path, odd: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FIELDS))
    ODD[odd](tmp_path / "generation_config.json")
    with pytest.raises(ValueError, match=r"generation_config\.json: not a regular file"):
        models.read(tmp_path)


LLAMA31 = llamas.VARIANTS["llama-3.1"]


@pytest.mark.parametrize(
    ("fields", "as_if"),
    [
        ({**FIELDS, "rope_theta": None}, {k: v for k, v in FIELDS.items() if k != "rope_theta"}),
        (LLAMA31 | {"rope_scaling": {**llamas.LLAMA3_ROPE, "rope_theta": None}}, LLAMA31),
        (
            LLAMA31 | {"rope_theta": None, "rope_scaling": {**llamas.LLAMA3_ROPE, "rope_theta": 9}},
            LLAMA31 | {"rope_theta": 9},
        ),
        (LLAMA31 | {"rope_scaling": {**llamas.LLAMA3_ROPE, "beta_fast": None}}, LLAMA31),
        (
            FIELDS
            | {"rope_scaling": {**llamas.LINEAR_ROPE, "original_max_position_embeddings": 0}},
            FIELDS | {"rope_scaling": llamas.LINEAR_ROPE},
        ),
    ],
)
def test_null_is_absent_and_what_a_type_has_no_use_for_is_not_used(
    fields: dict[str, Any], as_if: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert models.from_dict(fields) == models.from_dict(as_if)
    assert not caplog.records


def test_a_factor_below_one_is_one_warning_and_ours(capfd: pytest.CaptureFixture[str]) -> None:
    section = {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 1024}
    with pytest.warns(UserWarning, match=r"factor=0\.5 in rope_scaling is below 1") as said:
        models.from_dict(FIELDS | {"rope_scaling": section})
    assert len(said) == 1
    assert "transformers" not in capfd.readouterr().err
