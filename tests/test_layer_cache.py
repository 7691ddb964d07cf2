"""A second kind of layer cache, which the engine serves without a change to anything."""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import pytest
import tiny
from test_generate import Letters

import star_jax
from star_jax import Dense, Engine, Star
from star_jax.attention import Segment
from star_jax.cache import layer as layer_cache
from star_jax.generate import sampling
from star_jax.runtime import mesh as mesh_lib


class Half(NamedTuple):
    """Half of the bytes of a float32 model: both in float16.

    Its fields have other names than the plain one's: nobody looks into it.
    """

    keys: Any
    values: Any

    @classmethod
    def of(cls, k: Any, v: Any) -> "Half":
        return cls(k.astype(jnp.float16), v.astype(jnp.float16))

    @classmethod
    def layout(cls) -> "Half":
        return cls(mesh_lib.CACHE, mesh_lib.CACHE)

    def attend(self, q: Any, valid: Any, attention: layer_cache.Attention) -> Any:
        k, v = self.keys.astype(q.dtype), self.values.astype(q.dtype)
        return attention(q, [Segment(k, v, length=valid)])

    def read(self, start: Any, count: int) -> Any:
        some = [jax.lax.dynamic_slice_in_dim(x, start, count, axis=1) for x in self]
        return tuple(x.astype(jnp.float32) for x in some)

    def take(self, at: Any) -> Any:
        some = [jnp.take_along_axis(x, at[:, :, None, None], axis=1) for x in self]
        return tuple(x.astype(jnp.float32) for x in some)


QUERIES = [tiny.ids(n, seed=n) for n in (5, 9, 3)]


def engines(attention: Any, **axes: Any) -> tuple[Any, Any]:
    """One with the plain kind, one with the other."""
    how: Any = {"mesh": star_jax.make_mesh(**axes), "attention": attention, "tokenizer": Letters()}
    return Engine(tiny.model(), **how), Engine(tiny.model(), layer_cache=Half, **how)


@pytest.mark.parametrize(
    "attention",
    [Star(block_size=32, anchor_size=8), pytest.param(Dense(), marks=pytest.mark.long)],
)
def test_prefill_query_decoding_and_several_questions(attention: Any) -> None:
    """It answers as the plain one does on keys and values that were rounded before."""
    plain, half = engines(attention, context=4)
    context, kept = plain.prefill(tiny.ids(300)), half.prefill(tiny.ids(300))
    layers = [group.cache.layers for group in kept.groups]
    assert all(isinstance(layer, Half) for some in layers for layer in some)
    held = [
        sum(x.nbytes for x in jax.tree.leaves(c.groups[0].cache.layers)) for c in (context, kept)
    ]
    assert held[0] == 2 * held[1]

    group = context.groups[0]
    cache = group.cache._replace(
        layers=jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), group.cache.layers)
    )
    context = dataclasses.replace(context, groups=(dataclasses.replace(group, cache=cache),))
    for one, other in zip(half.score(kept, QUERIES), plain.score(context, QUERIES), strict=True):
        assert tiny.difference(one, other) < 1e-5
    how: Any = {"max_new_tokens": 12, "ignore_eos": True}
    assert half.generate(kept, QUERIES, **how) == plain.generate(context, QUERIES, **how)
    if isinstance(attention, Dense):
        return
    draws = sampling.Sampling(seed=3, temperature=1.5)
    drawn = half.generate(kept, QUERIES[0], samples=3, sampling=draws, **how)
    assert drawn == plain.generate(context, QUERIES[0], samples=3, sampling=draws, **how)
    # Parts, dialogue, and what was not rounded at all.
    part, other = kept.prefix(70), context.prefix(70)
    assert tiny.difference(half.score(part, QUERIES[1]), plain.score(other, QUERIES[1])) < 1e-5
    generation = half.start(kept, QUERIES[0], **how)
    generation.finish()
    chex.assert_tree_all_finite(half.score(generation.context, QUERIES[1]))
    exact = plain.score(plain.prefill(tiny.ids(300)), QUERIES[0])
    assert 0 < tiny.difference(half.score(kept, QUERIES[0]), exact) < 1e-2


def test_a_batch_on_every_axis() -> None:
    _, half = engines(Star(block_size=32), data=2, context=2, tensor=2)
    batch = half.prefill([tiny.ids(100), tiny.ids(700), tiny.ids(90)])
    for tokens, score in zip([100, 700, 90], half.score(batch, QUERIES), strict=True):
        query = QUERIES[[100, 700, 90].index(tokens)]
        alone = half.score(half.prefill(tiny.ids(tokens)), query)
        assert tiny.difference(score, alone) < 1e-5
