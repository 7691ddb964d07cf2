"""The configuration of a Llama decoder, read from a Hugging Face `config.json`.

Parsing goes through `transformers.LlamaConfig`, which fills in absent fields; nothing
here has a default. Every field of the file is on one of three lists: read, harmless,
or refused. Only fields that are read are looked at, and reach transformers.
"""

import dataclasses
import math
import os
import warnings
from typing import Any

from star_jax import json_files, quiet
from star_jax.json_files import shown
from star_jax.models.config_fields import HARMLESS, ONLY, ONLY_IN_ROPE, READ, is_one_of
from star_jax.text.printable import printable

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_MAY_BE_NULL = ("num_key_value_heads", "head_dim")  # as if they were not there
_LARGEST = 2**31 - 1  # positions and ids are int32
_MOST_LAYERS = 1000  # each is made by itself; published models have some hundred at most
_FLAGS = ("attention_bias", "mlp_bias", "tie_word_embeddings")
_ACTIVATIONS = ("silu", "swish")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding: `default`, `linear`, `llama3` or `yarn`.

    A field that the type does not have is None. cos and sin are multiplied by `attention_factor`.
    """

    rope_type: str
    theta: float
    attention_factor: float
    factor: float | None = None
    original_max_position_embeddings: float | None = None
    low_freq_factor: float | None = None  # llama3, as is the next
    high_freq_factor: float | None = None
    beta_fast: float | None = None  # yarn, as are the next two
    beta_slow: float | None = None
    truncate: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """What a Llama decoder computes. Every value comes from the checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    eos_token_ids: tuple[int, ...]


def read(directory: str | os.PathLike[str]) -> LlamaConfig:
    """Reads `config.json` and, for EOS, `generation_config.json`, of a checkpoint.

    Raises:
      FileNotFoundError: there is no `config.json`.
      ValueError: it is not JSON, or a field is unknown or impossible.
      NotImplementedError: a field asks for a model that is not supported.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no config.json in {os.fspath(directory)}: not a checkpoint")
    fields = json_files.read(path)
    generation = os.path.join(directory, "generation_config.json")
    eos = None
    if json_files.is_there(generation):
        defaults = json_files.read(generation)
        eos = defaults.get("eos_token_id")
        _warn_of_bos("generation_config.json", defaults, fields.get("vocab_size"))
    if eos in (None, []):
        return from_dict(fields)
    config = from_dict({**fields, "eos_token_id": None})  # what is not used is not checked
    ids = _as_ids("generation_config.json", eos, config.vocab_size)
    return dataclasses.replace(config, eos_token_ids=ids)


def from_dict(fields: dict[str, Any]) -> LlamaConfig:
    """The configuration that the fields of a `config.json` describe; see `read`."""
    if (model_type := fields.get("model_type")) != "llama":
        raise NotImplementedError(
            f"config.json: model_type={shown(model_type)} is not supported, only 'llama'"
        )
    unknown = sorted(set(fields) - READ - HARMLESS - set(ONLY))
    if unknown:
        raise ValueError(
            f"config.json: unknown fields {shown(unknown)}: they may change the model, so it is "
            "not run. If they do not, take them out of the file."
        )
    for name, allowed in ONLY.items():
        if name in fields and not is_one_of(fields[name], allowed):
            raise NotImplementedError(
                f"config.json: {name}={shown(fields[name])} is not supported, only "
                f"{' or '.join(map(repr, allowed))}"
            )
    hf = _filled_in(_checked({name: fields[name] for name in READ if name in fields}))
    if hf.num_attention_heads % hf.num_key_value_heads:
        raise ValueError(
            f"config.json: num_attention_heads={hf.num_attention_heads} is not a multiple of "
            f"num_key_value_heads={hf.num_key_value_heads}"
        )
    if hf.head_dim < 1 or hf.head_dim % 2:
        raise ValueError(f"config.json: head_dim={hf.head_dim} must be even and above 0, for RoPE")
    _warn_of_bos("config.json", fields, hf.vocab_size)
    return LlamaConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=hf.head_dim,
        rms_norm_eps=hf.rms_norm_eps,
        rope=_rope(fields, dict(hf.rope_parameters), hf.max_position_embeddings),
        max_position_embeddings=hf.max_position_embeddings,
        tie_word_embeddings=hf.tie_word_embeddings,
        attention_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        eos_token_ids=_as_ids(
            "config.json", fields.get("eos_token_id", hf.eos_token_id), hf.vocab_size
        ),
    )


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are read, as transformers takes them; that they are possible is checked."""
    for name in _SIZES:
        value = fields.get(name)
        if name not in fields or (value is None and name in _MAY_BE_NULL):
            continue
        largest = _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"config.json: {name}={shown(value)} must be an integer")
        if not 0 < value <= largest:
            raise ValueError(
                f"config.json: {name}={shown(value)} must be above 0, and at most {largest}"
            )
    for name in _FLAGS:
        if fields.get(name, False) is None:
            del fields[name]  # null is false, as it is where it is absent
        elif not isinstance(fields.get(name, False), bool):
            raise ValueError(f"config.json: {name}={shown(fields[name])} must be true or false")
    if "rms_norm_eps" in fields:
        _check_number("rms_norm_eps", fields["rms_norm_eps"])
        fields["rms_norm_eps"] = float(fields["rms_norm_eps"])
    if (act := fields.get("hidden_act", "silu")) not in _ACTIVATIONS:
        raise NotImplementedError(
            f"config.json: hidden_act={shown(act)} is not supported, only {_ACTIVATIONS}"
        )
    if fields.get("rope_theta") is None:
        fields.pop("rope_theta", None)  # null is as if it were not there
    else:
        _check_number("rope_theta", fields["rope_theta"])
    for name in ("rope_parameters", "rope_scaling"):
        if fields.get(name) is not None:
            fields[name] = _rope_section(name, fields[name])
    fields.pop("eos_token_id", None)  # of use to nothing that transformers does here
    return fields


def _filled_in(fields: dict[str, Any]) -> Any:
    """transformers' configuration: its annotations say None where it has filled in a value."""
    from transformers import LlamaConfig as HFLlamaConfig  # slow to import

    try:
        with quiet.transformers():
            return HFLlamaConfig.from_dict(fields)
    except Exception as e:  # transformers raises its own strict-dataclass errors
        reason = printable(" ".join(str(e).split()))
        raise ValueError(f"config.json: {reason}") from e


# Fields of a rope section, by its type: those that must be there, and those that may be.
ROPE_TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        (),
    ),
    "yarn": (
        ("original_max_position_embeddings",),
        (
            "factor",  # must be there as well, but may be null
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
}


_ROPE_FIELDS = {"rope_theta"}.union(*(a + b for a, b in ROPE_TYPES.values()))  # of any type


def _rope_section(name: str, section: Any) -> dict[str, Any]:
    """A section of RoPE without what is harmless in it."""
    if not isinstance(section, dict):
        raise ValueError(f"config.json: {name}={shown(section)} must be an object or null")
    for field, allowed in ONLY_IN_ROPE.items():
        if field in section and not is_one_of(section[field], allowed):
            raise NotImplementedError(
                f"config.json: {field}={shown(section[field])} in {name} is not supported, only "
                f"{' or '.join(map(repr, allowed))}"
            )
    for field in ("type", "rope_type"):
        if not isinstance(section.get(field, ""), str):
            raise ValueError(f"config.json: {field}={shown(section[field])} must be a string")
    section = {field: value for field, value in section.items() if field not in ONLY_IN_ROPE}
    rope_type = section.get("rope_type", section.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise NotImplementedError(
            f"config.json: rope_type={shown(rope_type)} is not supported ({', '.join(ROPE_TYPES)})"
        )
    section = _of_type(rope_type, section)
    given = {field for field, value in section.items() if value is not None}
    for field in sorted(given - {"rope_type", "type", "truncate"}):
        _check_number(field, section[field], zero=field in _ZERO_IS_ABSENT)
    if (factor := section.get("factor") or 1) < 1:
        warnings.warn(
            f"star_jax: config.json: {factor=} in {name} is below 1: it shortens what the model "
            "can read",
            stacklevel=2,
        )
    # Before transformers sees them: it refuses no order, and logs a line of its own about it.
    low, high = section.get("low_freq_factor") or 0, section.get("high_freq_factor") or math.inf
    if low >= high:
        raise ValueError("config.json: low_freq_factor must be below high_freq_factor")
    beta_fast, beta_slow = section.get("beta_fast") or 32, section.get("beta_slow") or 1
    if beta_fast < beta_slow:
        raise ValueError(f"config.json: {beta_fast=} must not be below {beta_slow=}")
    return section


def _of_type(rope_type: str, section: dict[str, Any]) -> dict[str, Any]:
    """The fields that a type has; null is as absent, of fields that there are."""
    needed, optional = ROPE_TYPES[rope_type]
    has = {*needed, *optional, "rope_type", "type"}  # of these transformers knows what null is
    found = {f: v for f, v in section.items() if v is not None or f in has or f not in _ROPE_FIELDS}
    if rope_type == "linear":  # it has no use for it
        found.pop("original_max_position_embeddings", None)
    if extra := sorted(found.keys() - has - {"rope_theta"}):
        raise NotImplementedError(f"config.json: {rope_type=} with {shown(extra)} is not supported")
    return found


def _rope(fields: dict[str, Any], parameters: dict[str, Any], max_positions: int) -> Rope:
    """`parameters` is transformers' merge of both spellings, `fields` the file itself."""
    # Where the file says a thing twice, the merge takes one and drops the other in silence.
    parts = [fields[name] for name in ("rope_parameters", "rope_scaling") if fields.get(name)]
    if len(parts) == 2 and parts[0] != parts[1]:
        raise ValueError("config.json: rope_parameters and rope_scaling differ; keep one of them")
    for part in parts:
        _refuse_two_values("rope_theta", fields.get("rope_theta"), part.get("rope_theta"))
        _refuse_two_values("rope_type", part.get("type"), part.get("rope_type"))
    rope_type = parameters["rope_type"]
    needed, _ = ROPE_TYPES[rope_type]
    if missing := sorted(name for name in needed if parameters.get(name) is None):
        raise ValueError(f"config.json: {rope_type=} without {missing}")
    _check_number("rope_theta", parameters["rope_theta"])
    if rope_type == "yarn":
        return _yarn(parameters, max_positions)
    values: dict[str, Any] = {name: float(parameters[name]) for name in needed}
    theta = float(parameters["rope_theta"])
    return Rope(rope_type=rope_type, theta=theta, attention_factor=1.0, **values)


# transformers writes `x or ...` for these.
_ZERO_IS_ABSENT = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def _yarn(parameters: dict[str, Any], max_positions: int) -> Rope:
    """What is absent is as in transformers' `_compute_yarn_parameters`, 32 and 1 among it."""
    theta, original = parameters["rope_theta"], parameters["original_max_position_embeddings"]
    if theta <= 1:
        raise ValueError(f"config.json: rope_theta={theta} must be above 1 for rope_type='yarn'")
    factor = parameters["factor"]
    if factor is None:
        factor = max_positions / original
        _check_number("factor", factor)
    beta_fast = parameters.get("beta_fast") or 32
    beta_slow = parameters.get("beta_slow") or 1
    truncate = parameters.get("truncate", True)  # but null is false
    if not (truncate is None or isinstance(truncate, bool)):
        raise ValueError(f"config.json: truncate={shown(truncate)} must be true or false")

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = (float(parameters.get(name) or 0) for name in ("mscale", "mscale_all_dim"))
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:  # if it is there, mscale and mscale_all_dim say nothing
        both = above and below  # one alone says nothing
        attention_factor = scale(above) / scale(below) if both else scale(1.0)
        _check_number("attention_factor", attention_factor)
    return Rope(
        rope_type="yarn",
        theta=float(theta),
        attention_factor=float(attention_factor),
        factor=float(factor),
        original_max_position_embeddings=float(original),
        beta_fast=float(beta_fast),
        beta_slow=float(beta_slow),
        truncate=bool(truncate),
    )


def _check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """Refuses what is no number above 0 in float32, in which the model computes."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and (_SMALLEST <= value <= _GREATEST or (value == 0 and zero))):
        raise ValueError(f"config.json: {name}={shown(value)} must be a number above 0")


_SMALLEST, _GREATEST = 2.0**-126, 2.0**127  # of float32, without those that may be flushed to 0


def _refuse_two_values(name: str, one: Any, other: Any) -> None:
    if one is not None and other is not None and one != other:
        raise ValueError(
            f"config.json: two values for {name}, {shown(one)} and {shown(other)}; keep one"
        )


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


def _warn_of_bos(where: str, fields: dict[str, Any], vocab_size: Any) -> None:
    """BOS is the tokenizer's, and this one is not used: but somebody may rely on it."""
    bos: Any = fields.get("bos_token_id")
    is_id = isinstance(bos, int) and not isinstance(bos, bool) and isinstance(vocab_size, int)
    if is_id and not 0 <= bos < vocab_size:
        warnings.warn(
            f"star_jax: {where}: bos_token_id={shown(bos)} is outside the vocabulary of "
            f"{shown(vocab_size)} tokens; it is not used, as the tokenizer says which BOS it adds",
            stacklevel=2,
        )
