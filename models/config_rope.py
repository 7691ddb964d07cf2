"""RoPE in a `config.json`: in either spelling, checked, and as one `Rope`."""

import math
import warnings
from typing import Any

from star_jax.json_files import shown
from star_jax.models.config_fields import ONLY_IN_ROPE, check_number, is_one_of
from star_jax.models.rope import Rope

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
    "longrope": (
        ("short_factor", "long_factor", "original_max_position_embeddings"),
        ("factor", "attention_factor"),
    ),
}

_OF_ANY_TYPE = {"rope_theta", "partial_rotary_factor"}
_ROPE_FIELDS = _OF_ANY_TYPE.union(*(a + b for a, b in ROPE_TYPES.values()))
_LISTS = ("short_factor", "long_factor")


def rope_sections(name: str, sections: Any) -> dict[str, Any]:
    """The sections of RoPE of all kinds of layers, each as `rope_section` returns it."""
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(sections, dict) or not set(sections) <= set(kinds):
        raise ValueError(f"config.json: {name}={shown(sections)} must have a section for {kinds}")
    return {
        kind: rope_section(f"{name}.{kind}", section, partial=False)
        for kind, section in sections.items()
        if section is not None
    }


def rope_section(name: str, section: Any, *, partial: bool) -> dict[str, Any]:
    """A section of RoPE without what is harmless in it.

    partial: whether there are models of the family in which only a part of each head turns.
    """
    if not isinstance(section, dict):
        raise ValueError(f"config.json: {name}={shown(section)} must be an object or null")
    only = dict(ONLY_IN_ROPE)
    if partial:
        del only["partial_rotary_factor"]
    for field, allowed in only.items():
        if field in section and not is_one_of(section[field], allowed):
            raise NotImplementedError(
                f"config.json: {field}={shown(section[field])} in {name} is not supported, only "
                f"{' or '.join(map(repr, allowed))}"
            )
    for field in ("type", "rope_type"):
        if not isinstance(section.get(field, ""), str):
            raise ValueError(f"config.json: {field}={shown(section[field])} must be a string")
    section = {field: value for field, value in section.items() if field not in only}
    for field in ("type", "rope_type"):
        if section.get(field) == "su":  # its name in the first files
            section[field] = "longrope"
    rope_type = section.get("rope_type", section.get("type", "default"))
    if rope_type not in ROPE_TYPES:
        raise NotImplementedError(
            f"config.json: rope_type={shown(rope_type)} is not supported ({', '.join(ROPE_TYPES)})"
        )
    section = _of_type(rope_type, section)
    given = {field for field, value in section.items() if value is not None}
    for field in sorted(given - {"rope_type", "type", "truncate", *_LISTS}):
        check_number(field, section[field], zero=field in _ZERO_IS_ABSENT)
    for field in sorted(section.keys() & set(_LISTS)):
        if not isinstance(section[field], list):
            raise ValueError(f"config.json: {field}={shown(section[field])} must be a list")
        for value in section[field]:
            check_number(field, value)
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
    if extra := sorted(found.keys() - has - _OF_ANY_TYPE):
        raise NotImplementedError(f"config.json: {rope_type=} with {shown(extra)} is not supported")
    return found


def rope_from(
    fields: dict[str, Any], parameters: dict[str, Any], *, head_dim: int, max_positions: int
) -> Rope:
    """`parameters` is transformers' merge of both spellings, `fields` the file itself."""
    # Where the file says a thing twice, the merge takes one and drops the other in silence.
    parts = [fields[name] for name in ("rope_parameters", "rope_scaling") if fields.get(name)]
    if len(parts) == 2 and parts[0] != parts[1]:
        raise ValueError("config.json: rope_parameters and rope_scaling differ; keep one of them")
    for part in parts:
        for name in ("rope_theta", "partial_rotary_factor"):
            _refuse_two_values(name, fields.get(name), part.get(name))
        _refuse_two_values("rope_type", part.get("type"), part.get("rope_type"))
    rope_type = parameters["rope_type"]
    needed, _ = ROPE_TYPES[rope_type]
    if missing := sorted(name for name in needed if parameters.get(name) is None):
        raise ValueError(f"config.json: {rope_type=} without {missing}")
    check_number("rope_theta", parameters["rope_theta"])
    partial = float(parameters.get("partial_rotary_factor", 1.0))  # as transformers has it
    turning = int(head_dim * partial)
    if partial > 1 or turning < 1 or turning % 2:
        raise ValueError(
            f"config.json: partial_rotary_factor={partial} of {head_dim=} must be even, above 0 "
            "and no more than all"
        )
    if rope_type == "yarn":
        found = _yarn(parameters, max_positions)
    elif rope_type == "longrope":
        for part in parts:  # transformers may take another one than the section has
            name = "original_max_position_embeddings"
            _refuse_two_values(name, parameters[name], part.get(name))
        found = _longrope(parameters, max_positions, turning // 2)
    else:
        found = {"attention_factor": 1.0, **{name: float(parameters[name]) for name in needed}}
    theta = float(parameters["rope_theta"])
    return Rope(rope_type=rope_type, theta=theta, partial_rotary_factor=partial, **found)


def _longrope(parameters: dict[str, Any], max_positions: int, count: int) -> dict[str, Any]:
    """As transformers' `_compute_longrope_parameters`, but for the choice of factors.

    transformers takes the long ones for sequences beyond the original length, and the short ones
    for others. Here they are chosen once, by the length that the model is made for: a context's
    keys are kept, and meet queries at any later position, so all must be turned alike.
    """
    original = parameters["original_max_position_embeddings"]
    for name in _LISTS:
        if len(parameters[name]) != count:
            raise ValueError(
                f"config.json: {name} has {len(parameters[name])} values, not {count}: one for "
                "each frequency"
            )
    factor, attention_factor = parameters.get("factor"), parameters.get("attention_factor")
    if factor is None:
        factor = max_positions / original
    if attention_factor is None and factor <= 1:
        attention_factor = 1.0
    elif attention_factor is None:
        if original <= 1:
            raise ValueError(
                f"config.json: original_max_position_embeddings={original} must be above 1 for "
                "rope_type='longrope'"
            )
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(original))
    factors = parameters["long_factor" if max_positions > original else "short_factor"]
    return {
        "attention_factor": float(attention_factor),
        "factors": tuple(float(x) for x in factors),
    }


# transformers writes `x or ...` for these.
_ZERO_IS_ABSENT = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def _yarn(parameters: dict[str, Any], max_positions: int) -> dict[str, Any]:
    """What is absent is as in transformers' `_compute_yarn_parameters`, 32 and 1 among it."""
    theta, original = parameters["rope_theta"], parameters["original_max_position_embeddings"]
    if theta <= 1:
        raise ValueError(f"config.json: rope_theta={theta} must be above 1 for rope_type='yarn'")
    factor = parameters["factor"]
    if factor is None:
        factor = max_positions / original
        check_number("factor", factor)
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
        check_number("attention_factor", attention_factor)
    return {
        "attention_factor": float(attention_factor),
        "factor": float(factor),
        "original_max_position_embeddings": float(original),
        "beta_fast": float(beta_fast),
        "beta_slow": float(beta_slow),
        "truncate": bool(truncate),
    }


def _refuse_two_values(name: str, one: Any, other: Any) -> None:
    if one is not None and other is not None and one != other:
        raise ValueError(
            f"config.json: two values for {name}, {shown(one)} and {shown(other)}; keep one"
        )
