"""Every kind of RoPE, and every field of its section, as transformers has it."""

from typing import Any

import chex
import jax.numpy as jnp
import llamas
import numpy as np
import pytest
from test_config import FIELDS, outputs

from star_jax import models
from star_jax.models import rope
from star_jax.models.config_rope import ROPE_TYPES

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": llamas.LINEAR_ROPE,
    "llama3": llamas.LLAMA3_ROPE,
    "yarn": llamas.YARN_ROPE,
    "longrope": llamas.LONG_ROPE,
}
# A second value of every field of a rope section.
ROPE_FIELDS: dict[str, Any] = {
    "rope_theta": 300.0,
    "factor": 3.0,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 3.0,
    "high_freq_factor": 3.0,
    "attention_factor": 1.5,
    "beta_fast": 3.0,
    "beta_slow": 3.0,
    "mscale": 4.0,
    "mscale_all_dim": 4.0,
    "truncate": True,
    "short_factor": [3.0] * 8,
    "long_factor": [3.0] * 8,
}


def with_rope(section: dict[str, Any], **others: Any) -> dict[str, Any]:
    fields = {k: v for k, v in FIELDS.items() if k != "rope_theta"}
    return {**fields, "rope_scaling": {"rope_theta": 10000.0, **section}, **others}


def check_rotation(fields: dict[str, Any]) -> rope.Rope:
    """Frequencies and scale, against those of transformers for the same file."""
    config = models.from_dict(fields)
    expected, scale = llamas.their_frequencies(llamas.hf_config(fields))
    actual = rope.frequencies(config.rope, config.head_dim)
    chex.assert_trees_all_close(actual, expected, rtol=2e-6, atol=0)
    assert config.rope.attention_factor == pytest.approx(scale, rel=1e-12)
    return config.rope


def rope_fields() -> list[tuple[str, str]]:
    return [
        (kind, name)
        for kind, (needed, optional) in ROPE_TYPES.items()
        for name in ("rope_theta", *needed, *optional)
    ]


def test_every_field_of_a_rope_section_is_listed() -> None:
    assert set(ROPES) == set(ROPE_TYPES)
    assert set(ROPE_FIELDS) == {name for _, name in rope_fields()}


@pytest.mark.parametrize(("kind", "name"), rope_fields())
def test_every_field_of_a_rope_section_is_read(kind: str, name: str) -> None:
    base = ROPES[kind]
    if name == "short_factor":  # it is for models that are not made longer
        base = {**base, "original_max_position_embeddings": FIELDS["max_position_embeddings"]}
    changed = {**base, name: ROPE_FIELDS[name]}
    one, other = check_rotation(with_rope(base)), check_rotation(with_rope(changed))
    # The model has nothing else of the section: what shows here, shows in its outputs.
    head_dim = 16
    seen = np.abs(rope.frequencies(one, head_dim) - rope.frequencies(other, head_dim)).max()
    assert seen > 1e-4 or abs(one.attention_factor - other.attention_factor) > 1e-2


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("linear", {"factor": 3.0}),
        ("llama3", {"original_max_position_embeddings": 64}),
        ("yarn", {"original_max_position_embeddings": 64}),
        ("yarn", {"mscale_all_dim": 4.0}),
        ("longrope", {"long_factor": [3.0] * 8}),
        ("longrope", {"factor": 3.0}),
    ],
)
def test_the_rope_section_shows_in_the_outputs(kind: str, change: dict[str, Any]) -> None:
    one, other = (outputs(with_rope(section)) for section in (ROPES[kind], ROPES[kind] | change))
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(
    "section",
    [
        {"factor": 4.0},
        {"factor": 0.5},  # then nothing is scaled but the frequencies
        {"factor": None, "original_max_position_embeddings": 32},  # 256 / 32
        {"factor": 4.0, "original_max_position_embeddings": 32},
        {"factor": 4.0, "truncate": None},
        {"factor": 4.0, "truncate": False},
        {"factor": 4.0, "beta_fast": 0, "beta_slow": None, "attention_factor": None},
        {"factor": 4.0, "mscale": 2.0},  # alone: not used
        {"factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0},
        {"factor": 4.0, "mscale": 2.0, "mscale_all_dim": 0.5, "attention_factor": 1.25},
        {"factor": 4.0, "beta_fast": 2.0, "beta_slow": 2.0, "truncate": False},  # a step
        {"factor": 4.0, "beta_fast": 1e6, "beta_slow": 1e-6},  # a ramp over all, and beyond
    ],
)
@pytest.mark.parametrize("published", [True, False])
def test_yarn_means_what_it_means_to_transformers(section: dict[str, Any], published: bool) -> None:
    fields = with_rope({"rope_type": "yarn", **section})
    if published:
        check_rotation(fields)
    else:  # as transformers writes it, all of a kind in one place
        fields["rope_parameters"] = fields.pop("rope_scaling")
        check_rotation(fields)


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"factor": 1.0},
        {"factor": 0.5},
        {"attention_factor": 1.25, "factor": 3.0},
        {"original_max_position_embeddings": 255},
        {"original_max_position_embeddings": 256},  # no longer than that: the short factors
        {"original_max_position_embeddings": 1000},
        {"original_max_position_embeddings": 1000, "factor": 3.0},
    ],
)
@pytest.mark.filterwarnings("ignore:star_jax. config.json. factor=0.5")
def test_longrope_means_what_it_means_to_transformers(section: dict[str, Any]) -> None:
    section = {**llamas.LONG_ROPE, **section}
    found = check_rotation(with_rope(section))
    longer = section["original_max_position_embeddings"] < FIELDS["max_position_embeddings"]
    assert found.factors == tuple(section["long_factor" if longer else "short_factor"])


@pytest.mark.parametrize(("part", "frequencies"), [(0.75, 6), (0.5, 4), (0.3, 2), (0.125, 1)])
def test_a_part_of_each_head_turns(part: float, frequencies: int) -> None:
    plain = {**llamas.VARIANTS["phi3"], "partial_rotary_factor": part}
    section = {
        "rope_type": "longrope",
        "short_factor": [1.5] * frequencies,
        "long_factor": [2.5] * frequencies,
    }
    found = [
        check_rotation(fields)
        for fields in (
            plain,
            {**plain, "original_max_position_embeddings": 16, "rope_scaling": section},
        )
    ]
    assert [len(rope.frequencies(r, 16)) for r in found] == [frequencies] * 2
    rotation = rope.rotation(jnp.arange(5)[None], found[0], 16)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 2, 16)), jnp.float32)
    turned = np.asarray(rope.apply(x, rotation))
    chex.assert_trees_all_equal(turned[..., 2 * frequencies :], x[..., 2 * frequencies :])
    assert (np.abs(turned - x)[0, 1:, :, : 2 * frequencies] > 0).all()


def test_yarn_at_published_sizes() -> None:
    """Llama-2-7B's head dimension and length, stretched 32 times."""
    section = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32}
    check_rotation(with_rope(section, **sizes, max_position_embeddings=131072))
