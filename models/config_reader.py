"""The configuration of a decoder, read from a Hugging Face `config.json`.

Parsing goes through the family's configuration in transformers, which fills in absent fields;
nothing here has a default. Every field of the file is on one of the family's three lists: read,
harmless, or refused. Only fields that are read are looked at, and reach transformers.
"""

import dataclasses
import functools
import os
import warnings
from typing import Any

from star_jax import json_files, quiet
from star_jax.json_files import shown
from star_jax.models import quantization
from star_jax.models.config import DecoderConfig
from star_jax.models.config_fields import check_number, is_one_of
from star_jax.models.config_rope import rope_from, rope_section, rope_sections
from star_jax.models.family import Family
from star_jax.models.registry import family_of
from star_jax.printable import printable

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "no_rope_layer_interval",
    "sliding_window",
    "max_window_layers",
    "sliding_window_pattern",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
)
_OF_LAYERS = {"layer_types": str, "no_rope_layers": int}  # lists with one entry a layer
# What it means, transformers says.
_MAY_BE_NULL = ("num_key_value_heads", "head_dim", "sliding_window")
_MAY_BE_ZERO = ("max_window_layers",)
_LARGEST = 2**31 - 1  # positions and ids are int32
_MOST_LAYERS = 1000  # each is made by itself; published models have some hundred at most
_FLAGS = (
    "attention_bias",
    "attention_out_bias",
    "mlp_bias",
    "norm_topk_prob",
    "tie_word_embeddings",
    "use_sliding_window",
)
_ACTIVATIONS = ("silu", "swish")
_BESIDE = {"eos_token_id", "model_type", "tie_word_embeddings"}  # a section of text


def read(directory: str | os.PathLike[str]) -> DecoderConfig:
    """Reads `config.json` and, for EOS, `generation_config.json`, of a checkpoint.

    Raises:
      FileNotFoundError: there is no `config.json`.
      ValueError: it is not JSON, or a field is unknown or impossible.
      NotImplementedError: a field asks for a model that is not supported.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no config.json in {os.fspath(directory)}: not a checkpoint"
            f"{quantization.only_gguf(directory)}"
        )
    fields = json_files.read(path)
    generation = os.path.join(directory, "generation_config.json")
    eos = None
    if json_files.is_there(generation):
        defaults = json_files.read(generation)
        eos = defaults.get("eos_token_id")
        _warn_if_bos_is_unknown("generation_config.json", defaults, fields.get("vocab_size"))
    if eos in (None, []):
        return from_dict(fields)
    config = from_dict({**fields, "eos_token_id": None})  # what is not used is not checked
    ids = _as_ids("generation_config.json", eos, config.vocab_size)
    return dataclasses.replace(config, eos_token_ids=ids)


def from_dict(fields: dict[str, Any]) -> DecoderConfig:
    """The configuration that the fields of a `config.json` describe; see `read`.

    How the weights are stored is no part of it, but must be supported; see `quantization`.
    """
    family = family_of(fields.get("model_type"))
    quantization.from_fields(fields)
    fields = _of_text(family, quantization.without(fields))
    if isinstance(code := fields.get("auto_map"), dict):  # a copy's names whose code it is, too
        cut = {key: x.rpartition("--")[2] if isinstance(x, str) else x for key, x in code.items()}
        fields = fields | {"auto_map": cut}
    unknown = sorted(set(fields) - family.read - family.harmless - set(family.only))
    if unknown:
        raise ValueError(
            f"config.json: unknown fields {shown(unknown)}: they may change the model, so it is "
            "not run. If they do not, take them out of the file."
        )
    for name, allowed in family.only.items():
        if name in fields and not is_one_of(fields[name], allowed):
            raise NotImplementedError(
                f"config.json: {name}={shown(fields[name])} is not supported, only "
                f"{' or '.join(map(repr, allowed))}"
            )
    checked = _checked(family, {f: fields[f] for f in family.read if f in fields})
    _check_rope_type(family, checked)
    hf = _filled_in(family, checked)
    if hf.num_attention_heads % hf.num_key_value_heads:
        raise ValueError(
            f"config.json: num_attention_heads={hf.num_attention_heads} is not a multiple of "
            f"num_key_value_heads={hf.num_key_value_heads}"
        )
    # Of some families transformers' model itself fills it in.
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    if head_dim < 1 or head_dim % 2:
        raise ValueError(f"config.json: {head_dim=} must be even and above 0, for RoPE")
    _warn_if_bos_is_unknown("config.json", fields, hf.vocab_size)
    return DecoderConfig(
        family=family.name,
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=hf.rms_norm_eps,
        max_position_embeddings=hf.max_position_embeddings,
        tie_word_embeddings=hf.tie_word_embeddings,
        eos_token_ids=_as_ids(
            "config.json", fields.get("eos_token_id", hf.eos_token_id), hf.vocab_size
        ),
        **_plain(head_dim) | _ropes(family, fields, hf, head_dim) | family.values(hf),
    )


def _of_text(family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the text model, where a file describes more than that; see `Family`."""
    if family.section is None:
        return fields
    section = fields.get(family.section)
    if not isinstance(section, dict):
        raise ValueError(f"config.json: {family.section}={shown(section)} must be an object")
    kind = section.get("model_type")
    if kind != family.section_type:
        raise NotImplementedError(
            f"config.json: model_type={shown(kind)} in {family.section} is not supported, only "
            f"{family.section_type!r}"
        )
    outside = {name: value for name, value in fields.items() if name != family.section}
    if misplaced := sorted(outside.keys() & family.read - _BESIDE):
        raise ValueError(f"config.json: {shown(misplaced)} must be in {family.section}")
    return {**section, **outside}


def _ropes(family: Family, fields: dict[str, Any], hf: Any, head_dim: int) -> dict[str, Any]:
    """RoPE, and that of layers with windows where they have one of their own."""
    found = dict(hf.rope_parameters)
    read = functools.partial(rope_from, head_dim=head_dim, max_positions=hf.max_position_embeddings)
    if family.local_rope is None:
        return {"rope": read(fields, found)}
    # A file has a section for each kind of layer, or a field for what differs.
    given = fields.get("rope_parameters") or {}
    of_all = {**fields, "rope_parameters": given.get("full_attention")}
    local = given.get("sliding_attention")
    of_local = {"rope_theta": fields.get(family.local_rope), "rope_parameters": local}
    return {
        "rope": read(of_all, dict(found["full_attention"])),
        "local_rope": read(of_local, dict(found["sliding_attention"])),
    }


def _plain(head_dim: int) -> dict[str, Any]:
    """What a decoder is whose family says no more."""
    return {
        "qkv_bias": False,
        "o_bias": False,
        "mlp_bias": False,
        "activation": "silu",
        "norm_before": True,
        "norm_after": False,
        "norm_plus_one": False,
        "norm_in_float32": False,
        "qk_norm": False,
        "qk_norm_over_heads": False,
        "without_rope": frozenset(),
        "local_rope": None,
        "window": None,
        "windowed": frozenset(),
        "attention_soft_cap": None,
        "logits_soft_cap": None,
        "attention_scale": head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_divisor": 1.0,
        "experts": None,
    }


def _checked(family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are read, as transformers takes them; that they are possible is checked."""
    for name in _SIZES:
        value = fields.get(name)
        if name not in fields or (value is None and name in _MAY_BE_NULL):
            continue
        largest = _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"config.json: {name}={shown(value)} must be an integer")
        if not (0 < value <= largest or (value == 0 and name in _MAY_BE_ZERO)):
            raise ValueError(
                f"config.json: {name}={shown(value)} must be above 0, and at most {largest}"
            )
    counts = [fields[name] for name in ("num_experts", "num_local_experts") if name in fields]
    if len(set(counts)) > 1:  # two names of one field
        raise ValueError(f"config.json: num_experts and num_local_experts differ: {shown(counts)}")
    for name in _FLAGS:
        if fields.get(name, False) is None:
            fields[name] = False
        elif not isinstance(fields.get(name, False), bool):
            raise ValueError(f"config.json: {name}={shown(fields[name])} must be true or false")
    for name, kind in _OF_LAYERS.items():
        if fields.get(name) is None:
            fields.pop(name, None)  # null is as if it were not there
            continue
        values, count = fields[name], fields.get("num_hidden_layers")
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise ValueError(
                f"config.json: {name}={shown(values)} must be a list of {kind.__name__}"
            )
        if count is not None and len(values) != count:
            raise ValueError(
                f"config.json: {name}={shown(values)} must be one for each of {count} layers"
            )
    if "rms_norm_eps" in fields:
        check_number("rms_norm_eps", fields["rms_norm_eps"])
        fields["rms_norm_eps"] = float(fields["rms_norm_eps"])
    if (act := fields.get("hidden_act", "silu")) not in _ACTIVATIONS:
        raise NotImplementedError(
            f"config.json: hidden_act={shown(act)} is not supported, only {_ACTIVATIONS}"
        )
    for name in ("rope_theta", "rope_local_base_freq", "partial_rotary_factor"):
        if fields.get(name) is None:
            fields.pop(name, None)  # null is as if it were not there
        else:
            check_number(name, fields[name])
    partial = "partial_rotary_factor" in family.read
    for name in ("rope_parameters", "rope_scaling"):
        section = fields.get(name)
        if section is not None and family.local_rope is not None and name == "rope_parameters":
            fields[name] = rope_sections(name, section)
        elif section is not None:
            fields[name] = rope_section(name, section, partial=partial)
            if family.local_rope is not None and "type" in section:
                # transformers would take no notice of the older spelling here.
                fields[name].setdefault("rope_type", section["type"])
    fields.pop("eos_token_id", None)  # of use to nothing that transformers does here
    return fields


def _check_rope_type(family: Family, fields: dict[str, Any]) -> None:
    """Before transformers sees it, which may rename it."""
    for name in ("rope_parameters", "rope_scaling"):
        section = fields.get(name) or {}
        rope_type = section.get("rope_type", section.get("type", "default"))
        if family.rope_types is not None and rope_type not in family.rope_types:
            raise NotImplementedError(
                f"config.json: {rope_type=} in {name} is not supported for {family.name}, only "
                f"{' or '.join(map(repr, family.rope_types))}"
            )


def _filled_in(family: Family, fields: dict[str, Any]) -> Any:
    """transformers' configuration: its annotations say None where it has filled in a value."""
    import transformers  # slow to import

    try:
        with quiet.transformers():
            return getattr(transformers, family.hf_config).from_dict(fields)
    except Exception as e:  # transformers raises its own strict-dataclass errors
        reason = printable(" ".join(str(e).split()))
        raise ValueError(f"config.json: {reason}") from e


def _as_ids(where: str, eos: Any, vocab_size: int) -> tuple[int, ...]:
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise ValueError(f"{where}: eos_token_id={shown(eos)} must be an id or a list of ids")
    if impossible := [i for i in ids if not 0 <= i <= _LARGEST]:
        raise ValueError(
            f"{where}: eos_token_id={shown(eos)}: {shown(impossible[0])} is no token id; "
            "correct the file"
        )
    if outside := [i for i in ids if i >= vocab_size]:
        warnings.warn(
            f"star_jax: {where}: eos_token_id={shown(eos)}: {outside[0]} is outside the vocabulary "
            f"of {vocab_size} tokens, so no answer ends with it",
            stacklevel=2,
        )
    return tuple(ids)


def _warn_if_bos_is_unknown(where: str, fields: dict[str, Any], vocab_size: Any) -> None:
    """BOS is the tokenizer's, and this one is not used: but somebody may rely on it."""
    bos: Any = fields.get("bos_token_id")
    is_id = isinstance(bos, int) and not isinstance(bos, bool) and isinstance(vocab_size, int)
    if is_id and not 0 <= bos < vocab_size:
        warnings.warn(
            f"star_jax: {where}: bos_token_id={shown(bos)} is outside the vocabulary of "
            f"{shown(vocab_size)} tokens; it is not used, as the tokenizer says which BOS it adds",
            stacklevel=2,
        )
