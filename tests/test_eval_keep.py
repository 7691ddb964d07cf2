"""The evaluation's settings of what is kept of a context: each is a row of the result."""

import pytest

from star_jax import Keep
from star_jax.eval import config, naming, rows
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


def test_overrides_are_known() -> None:
    config.check_arguments(["eval", "--config.cache.keep=0.5", "--config.cache.criterion=norm"])
