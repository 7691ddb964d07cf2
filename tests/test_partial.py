"""Merging partials: one operation, one table of tests."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from star_jax.attention import Partial, merge, merge_over_axis
from star_jax.runtime import mesh as mesh_lib


def softmax_partial(scores, values):
    """The definition, in float64. scores [S], values [S, H]."""
    if not len(scores):
        return np.zeros(values.shape[1]), -np.inf
    top = scores.max()
    weights = np.exp(scores - top)
    return weights @ values / weights.sum(), top + np.log(weights.sum())


def draw(splits, shift=0.0, seed=0):
    """Partials over consecutive splits of the keys, and the one over all of them.

    `shift` is added to the scores of every other split.
    """
    rng = np.random.default_rng(seed)
    H = 8
    parts, scores, values = [], [], []
    for i, size in enumerate(splits):
        s, v = rng.normal(size=size) + shift * (i % 2), rng.normal(size=(size, H))
        parts.append(softmax_partial(s, v))
        scores.append(s)
        values.append(v)
    whole = softmax_partial(np.concatenate(scores), np.concatenate(values))
    shape = lambda p: Partial(  # noqa: E731
        jnp.asarray(p[0], jnp.float32)[None, None, None],
        jnp.asarray(p[1], jnp.float32)[None, None, None],
    )
    return [shape(p) for p in parts], shape(whole)


SPLITS = [(5, 7), (1, 1), (0, 4), (4, 0), (0, 0), (3, 0, 2, 9), (6,), (1,) * 8, (0,) * 7 + (3,)]


@pytest.mark.parametrize("shift", [0.0, 30.0, 200.0, -200.0])
@pytest.mark.parametrize("splits", SPLITS, ids=str)
def test_merged_parts_equal_the_whole(splits, shift):
    parts, whole = draw(splits, shift)
    chex.assert_trees_all_close(merge(*parts), whole, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("method", ["psum", "gather"])
@pytest.mark.parametrize("shift", [0.0, 200.0, -200.0])
@pytest.mark.parametrize("splits", [s for s in SPLITS if len(s) in (1, 2, 4, 8)], ids=str)
def test_merge_over_an_axis_equals_the_whole(splits, shift, method):
    parts, whole = draw(splits, shift)
    mesh = mesh_lib.make_mesh(context=len(splits))
    stacked = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("context"), out_specs=P("context"), check_vma=False
    )
    def run(part):
        return merge_over_axis(part, "context", method=method)

    merged = run(stacked)
    for i in range(len(splits)):  # every device has the result
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], merged)
        chex.assert_trees_all_close(one, whole, rtol=2e-6, atol=2e-6)


def test_nothing_is_the_identity():
    parts, whole = draw((9,))
    nothing = Partial(jnp.zeros_like(whole.out), jnp.full_like(whole.lse, -jnp.inf))
    chex.assert_trees_all_equal(merge(parts[0], nothing), merge(parts[0]))
    chex.assert_trees_all_equal(merge(nothing, nothing), nothing)


@pytest.mark.parametrize("gap", [89.0, 1e4, 3e38])
def test_a_gap_of_any_size_is_safe(gap):
    """The published merge overflows at 88."""
    small, large = (
        Partial(jnp.full((1, 1, 1, 2), v), jnp.full((1, 1, 1), g))
        for v, g in ((2.0, 0.0), (3.0, gap))
    )
    for merged in (merge(small, large), merge(large, small)):
        chex.assert_trees_all_close(merged, large, rtol=1e-6)


def test_the_method_is_named():
    part = draw((3,))[0][0]
    mesh = mesh_lib.make_mesh(context=2)
    run = jax.shard_map(
        lambda p: merge_over_axis(p, "context", method="ring"),  # type: ignore[arg-type]
        mesh=mesh,
        in_specs=P(),
        out_specs=P(),
        check_vma=False,
    )
    with pytest.raises((ValueError, TypeError), match="ring"):
        run(part)
