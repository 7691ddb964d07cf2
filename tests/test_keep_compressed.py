"""Fewer keys, and these in 8 bits."""

from typing import Any

import jax
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Engine, Keep, Star

WHOLE = np.random.default_rng(0).permutation(512)[:333].tolist()
QUERY = tiny.ids(9, seed=1)


def held(context: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(context.groups[0].cache.layers))


@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.05), *further(("fp8", 0.2))])
def test_keys_are_chosen_first_and_then_compressed(dtype: str, error: float) -> None:
    """The error is that of 8 bits, beside the same keys as they are; extending adds no more."""
    plain = Engine(
        tiny.model(vocab_size=512),
        mesh=star_jax.make_mesh(context=4),
        attention=Star(block_size=32),
        keep=Keep(share=0.5, criterion="random"),
    )
    small = plain.with_cache(dtype)
    context, whole = small.prefill(WHOLE), plain.prefill(WHOLE)
    assert held(context) < 0.4 * held(whole)  # of float32
    expected = plain.score(whole, QUERY)
    assert 0 < tiny.difference(small.score(context, QUERY), expected) < error
    longer = small.extend(small.prefill(WHOLE[:200]), WHOLE[200:])
    assert tiny.difference(small.score(longer, QUERY), expected) < error
    part, other = context.prefix(160), whole.prefix(160)
    assert tiny.difference(small.score(part, QUERY), plain.score(other, QUERY)) < error
