"""The evaluation's settings of what is kept of a context: each is a row of the result."""

from typing import Any

import pytest

import star_jax
from star_jax import Keep
from star_jax.eval import config, naming, plans, rows
from star_jax.eval.settings import AttentionConfig, CacheConfig

BOTH = AttentionConfig(kind="dense,star", block_size="64", anchor_size="8")


def test_shares_and_criteria_are_rows_of_star_alone() -> None:
    cache = CacheConfig(keep="1,0.5", criterion="norm,keydiff")
    found = rows.rows(BOTH, 512, cache)
    assert [row.name for row in found] == [
        "dense",
        "star_b64_a8",
        "star_b64_a8_keep0.5_norm",
        "star_b64_a8_keep0.5_keydiff",
    ]
    assert found[2].keep == Keep(share=0.5, criterion="norm")
    assert naming.described(found[2]) == {
        "kind": "star",
        "is_exact": False,
        "block_size": 64,
        "anchor_size": 8,
        "share": 0.5,
        "criterion": "norm",
    }
    assert rows.rows(BOTH, 512) == rows.rows(BOTH, 512, CacheConfig()) == found[:2]
    assert set(naming.settings(BOTH, 512, cache)) == {row.name for row in found}


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (CacheConfig(keep="half"), "cache.keep='half' must be a number above 0"),
        (CacheConfig(keep="0.5,0"), "cache.keep='0'.*share=0.0 must be above 0"),
        (CacheConfig(keep="1.5"), "share=1.5 must be above 0, and at most 1"),
        (CacheConfig(keep="0.5", criterion="best"), "criterion='best' must be one of"),
        (CacheConfig(keep=""), "cache.keep"),
    ],
)
def test_what_cannot_be_kept_is_told(cache: CacheConfig, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rows.rows(BOTH, 512, cache)


def keeping(keep: Any) -> CacheConfig:
    """As a config file has it, whose types nothing checks."""
    cache = CacheConfig()
    cache.keep = keep
    return cache


def test_a_config_file_may_give_numbers() -> None:
    kept = Keep(share=0.5, criterion="compactor")
    for keep, expected in ((0.5, [kept]), ((1, 0.5), [None, kept]), (1, [None]), (1.0, [None])):
        found = rows.rows(AttentionConfig(kind="star"), 512, keeping(keep))
        assert [row.keep for row in found] == expected


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (("1", "1.0", 1, 1.0, "1,1.00"), None),
        (("0.5", ".5", 0.5, "0.50,5e-1"), ["0.5"]),
        (("1,.5", "0.5,1.0", (0.5, 1)), ["0.5", "1"]),
    ],
)
def test_shares_that_mean_the_same_are_the_same_settings(
    shares: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans.hashes, "of_checkpoint", lambda directory: "")
    mesh = star_jax.make_mesh()
    for keep in shares:
        given = config.EvalConfig(
            model=config.ModelConfig(path="none"),
            attention=BOTH,
            mesh=config.MeshConfig(),
            data=config.DataConfig(lengths="512", tasks="niah_single_1"),
            generation=config.GenerationConfig(),
            output_dir="out",
            cache=keeping(keep),
        )
        assert plans._settings(given, "", mesh, "xla").get("cache.keep") == expected


def test_overrides_are_known() -> None:
    config.check_arguments(["eval", "--config.cache.keep=0.5", "--config.cache.criterion=norm"])
