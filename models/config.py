"""The configuration of a Llama decoder, read from a Hugging Face `config.json`.

Parsing goes through `transformers.LlamaConfig`, which fills in absent fields; nothing
here has a default. Every field of the file is on one of three lists: read, harmless,
or refused.
"""

import copy
import dataclasses
import json
import math
import os
from typing import Any

# Changing one of these changes what the model computes.
READ = frozenset(
    {
        "attention_bias",
        "eos_token_id",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "mlp_bias",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
        "vocab_size",
    }
)

# These do not change the model's outputs at inference.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "bos_token_id",  # the tokenizer adds it, or does not
        "attention_dropout",  # training only
        "do_sample",  # defaults of a generate() that is not used, as are the next three
        "max_length",
        "temperature",
        "top_p",
        "dtype",  # the engine's dtype decides
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",  # a layout of the same matmuls
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unsloth_fixed",  # notes of the tool that wrote the file
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    }
)

# Harmless at one value, a different model at any other.
_ONLY: dict[str, tuple[Any, ...]] = {
    "auto_map": (None,),  # code of its own
    "partial_rotary_factor": (1.0, None),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
    "is_decoder": (False, True, None),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False, None),
    "chunk_size_feed_forward": (0,),
    "logit_scale": (None, 1.0),
    "qk_norm": (None, False),
    "use_qk_norm": (None, False),
}

_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

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
    config = from_dict(_read_json(path))
    generation = os.path.join(directory, "generation_config.json")
    if os.path.isfile(generation):
        eos = _read_json(generation).get("eos_token_id")
        if eos not in (None, []):
            config = dataclasses.replace(config, eos_token_ids=_as_ids(eos))
    return config


def from_dict(fields: dict[str, Any]) -> LlamaConfig:
    """The configuration that the fields of a `config.json` describe; see `read`."""
    from transformers import LlamaConfig as HFLlamaConfig  # slow to import

    if (model_type := fields.get("model_type")) != "llama":
        raise NotImplementedError(f"config.json: {model_type=} is not supported, only 'llama'")
    unknown = sorted(set(fields) - READ - HARMLESS - set(_ONLY))
    if unknown:
        raise ValueError(
            f"config.json: unknown fields {unknown}: they may change the model, so it is not run. "
            "If they do not, take them out of the file."
        )
    for name, allowed in _ONLY.items():
        if name in fields and fields[name] not in allowed:
            raise NotImplementedError(f"config.json: {name}={fields[name]!r} is not supported")

    try:
        # A copy: it is changed. Any: the annotations say None where it has filled in a value.
        hf: Any = HFLlamaConfig.from_dict(copy.deepcopy(fields))
    except Exception as e:  # transformers raises its own strict-dataclass errors
        raise ValueError(f"config.json: {' '.join(str(e).split())}") from e
    if hf.hidden_act not in _ACTIVATIONS:
        raise NotImplementedError(
            f"config.json: hidden_act={hf.hidden_act!r} is not supported, only {_ACTIVATIONS}"
        )
    for name in _POSITIVE:
        if not getattr(hf, name) > 0:
            raise ValueError(f"config.json: {name}={getattr(hf, name)} must be above 0")
    if hf.num_attention_heads % hf.num_key_value_heads:
        raise ValueError(
            f"config.json: num_attention_heads={hf.num_attention_heads} is not a multiple of "
            f"num_key_value_heads={hf.num_key_value_heads}"
        )
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
        eos_token_ids=_as_ids(hf.eos_token_id),
    )


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
    if rope_type not in ROPE_TYPES:
        raise NotImplementedError(
            f"config.json: {rope_type=} is not supported ({', '.join(ROPE_TYPES)})"
        )
    needed, optional = ROPE_TYPES[rope_type]
    given = {k for k in parameters if parameters[k] is not None}
    given -= {"rope_type", "type", "rope_theta"}
    if parameters.get("partial_rotary_factor") == 1.0:
        given -= {"partial_rotary_factor"}
    if missing := sorted(set(needed) - given):
        raise ValueError(f"config.json: {rope_type=} without {missing}")
    if extra := sorted(given - {*needed, *optional}):
        raise NotImplementedError(f"config.json: {rope_type=} with {extra} is not supported")
    for name in ("rope_theta", *sorted(given - {"truncate"})):
        _check_number(name, parameters[name], zero=name in _ZERO_IS_ABSENT)
    if rope_type == "yarn":
        return _yarn(parameters, max_positions)
    if rope_type == "llama3" and not parameters["low_freq_factor"] < parameters["high_freq_factor"]:
        raise ValueError("config.json: low_freq_factor must be below high_freq_factor")
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
    beta_fast = parameters.get("beta_fast") or 32
    beta_slow = parameters.get("beta_slow") or 1
    if beta_fast < beta_slow:
        raise ValueError(f"config.json: {beta_fast=} must not be below {beta_slow=}")
    truncate = parameters.get("truncate", True)  # but null is false
    if truncate not in (True, False, None):
        raise ValueError(f"config.json: {truncate=} must be true or false")

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = (float(parameters.get(name) or 0) for name in ("mscale", "mscale_all_dim"))
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:  # if it is there, mscale and mscale_all_dim say nothing
        both = above and below  # one alone says nothing
        attention_factor = scale(above) / scale(below) if both else scale(1.0)
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
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"config.json: {name}={value!r} must be a number above 0")


def _refuse_two_values(name: str, one: Any, other: Any) -> None:
    if one is not None and other is not None and one != other:
        raise ValueError(f"config.json: two values for {name}, {one!r} and {other!r}; keep one")


def _as_ids(eos: Any) -> tuple[int, ...]:
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise ValueError(f"eos_token_id={eos!r} must be an id or a list of ids")
    return tuple(ids)


def _read_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as f:
        try:
            fields = json.load(f)
        except ValueError as e:
            raise ValueError(f"{path}: not JSON ({e})") from e
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: not a JSON object")
    return fields
