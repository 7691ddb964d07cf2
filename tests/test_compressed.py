"""Keys and values in 8 bits: how far off they are, attention over them, engines that keep them."""

import dataclasses
import functools
import re
from typing import Any

import attention_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from attention_cases import Case
from further import further
from test_generate import Letters

import star_jax
from star_jax import Engine, Ring, Star
from star_jax.attention import Segment, compressed, partial_attention
from star_jax.cache.compressed import KINDS
from star_jax.cache.layer import Plain

DTYPES = list(compressed.DTYPES)


def draw(*shape: int, dtype: str = "float32") -> Any:
    """A feature is much larger than the others, a token too, and a token is 0."""
    x = np.random.default_rng(0).normal(size=shape)
    x[..., 3] *= 30
    x[:, 5] *= 20
    x[:, 7] = 0
    return jnp.asarray(x, dtype)


def made_whole(k: Any, v: Any, scales: Any) -> tuple[Any, Any]:
    """What numbers in 8 bits stand for, in float64."""
    k, v, of_k, of_v, feature = (np.asarray(x, np.float64) for x in (k, v, *scales))
    feature = np.repeat(feature, k.shape[1] // feature.shape[1], axis=1)
    return k * of_k[..., None] * feature, v * of_v[..., None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("small", DTYPES)
def test_numbers_are_off_by_half_a_step_of_their_scale(small, dtype):
    """E4M3 has three bits behind the first one, and the smallest of its steps is 2^-9."""
    k, v = draw(2, 192, 2, 16, dtype=dtype), draw(2, 192, 2, 16, dtype=dtype)[:, ::-1]
    small_k, small_v, scales = compressed.compress(k, v, compressed.DTYPES[small])
    assert small_k.dtype == small_v.dtype == compressed.DTYPES[small]
    assert {x.dtype for x in scales} == {jnp.dtype(dtype)}
    assert [x.shape for x in scales] == [(2, 192, 2), (2, 192, 2), (2, 1, 2, 16)]
    found = made_whole(small_k, small_v, scales)
    steps = made_whole(np.ones(k.shape), np.ones(v.shape), scales)
    for x, whole, step in zip((k, v), found, steps, strict=True):
        x = np.asarray(x, np.float64)
        allowed = (
            0.5 * step if small == "int8" else np.maximum(2.0**-4 * np.abs(x), 2.0**-10 * step)
        )
        assert (np.abs(whole - x) <= 1.0001 * allowed).all()
        assert (np.abs(whole - x) > 0.9 * allowed)[x != 0].any()  # the bound is near


@pytest.mark.parametrize("size", [1e-3, 1e-4, 2e-5, 5e-6])
def test_small_numbers_of_float16_are_off_by_half_a_step_too(size):
    """Their scales are subnormal."""
    v = draw(1, 192, 2, 16, dtype="float16") * jnp.float16(size)
    _, small, scales = compressed.compress(v, v, jnp.int8)
    step = np.asarray(scales.v, np.float64)[..., None]
    error = np.abs(np.asarray(small, np.float64) * step - np.asarray(v, np.float64))
    assert (error <= 0.5001 * step).all()
    largest = np.abs(np.asarray(v, np.float64)).max(axis=-1)
    assert (scales.v <= largest / 127 * 1.01 + 2.0**-24).all()


@pytest.mark.parametrize("small", DTYPES)
def test_what_has_no_scale_in_common_does_not_matter(small):
    """Other heads and rows; of values other keys, too."""
    k, v = draw(2, 128, 2, 16), draw(2, 128, 2, 16)
    other_k, other_v = (x.at[:, :, 1].set(1e4).at[1].set(1e4) for x in (k, v))
    other_v = other_v.at[:, 64:].set(1e4)
    one, other = (
        compressed.compress(*kv, compressed.DTYPES[small]) for kv in ((k, v), (other_k, other_v))
    )
    np.testing.assert_array_equal(one[0][0, :, 0], other[0][0, :, 0])
    np.testing.assert_array_equal(one[1][0, :64, 0], other[1][0, :64, 0])


def test_a_large_feature_or_token_costs_the_others_nothing():
    """A key that is 1000 times as large, and a feature: the others are off as if all were alike."""
    k = jnp.asarray(np.random.default_rng(0).normal(size=(1, 256, 1, 16)), "float32")
    large = k.at[..., 3].multiply(1000.0)
    large = large.at[:, 5].set(jnp.where(jnp.arange(16) == 3, 0.0, 1e-3))
    errors = []
    for x in (k, large):
        k8, v8, scales = compressed.compress(x, x, jnp.int8)
        error = np.abs(made_whole(k8, v8, scales)[0] - np.asarray(x, np.float64))
        errors.append(np.delete(error[0, :, 0], 3, 1).max(axis=1))
    assert np.delete(errors[1], 5).max() < 1.1 * np.delete(errors[0], 5).max()
    assert errors[1][5] < 1e-5  # a small token has a small scale


def in_groups(k: Any, v: Any, small: str, group: int) -> Any:
    """Compressed as waves of so many keys are."""
    waves = [
        compressed.compress(k[:, i : i + group], v[:, i : i + group], compressed.DTYPES[small])
        for i in range(0, k.shape[1], group)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *waves)


def segment(
    case: Case, small: str, dtype: str = "float32", group: int | None = None
) -> tuple[Any, Any, Any]:
    """The case's arrays with keys in 8 bits, the same with what these stand for, and options."""
    group = group or case.S
    arrays, options = attention_cases.make(case, dtype)
    (own,) = arrays["segments"]
    k, v, scales = in_groups(own.k, own.v, small, group)
    inside = dataclasses.replace(own, k=k, v=v, scales=scales)
    k, v = (jnp.asarray(x, "float32").astype(dtype) for x in made_whole(k, v, scales))
    whole = dataclasses.replace(own, k=k, v=v)
    return arrays | {"segments": [inside]}, arrays | {"segments": [whole]}, options


CASES = [
    Case("one query", 1, 1280, causal=False, length=(1237, 600)),
    Case("one query, no length", 1, 1280, causal=False),
    Case("few keys", 3, 40, causal=False, length=(40, 0)),
    Case("groups that no tile ends with", 2, 1000, causal=False, length=(1000, 70)),
    Case("many", 150, 1600, causal=False, length=(0, 1599)),
    Case("later keys", 150, 1024, causal=False, begin=(100, 0), length=(1000, 1024)),
    Case("later keys, few", 3, 1024, causal=False, begin=(600, 70), length=(1024, 90)),
    Case("causal", 200, 200),
    Case("soft cap", 9, 640, causal=False, soft_cap=2.0),
]


GROUPS = {1280: 128, 1000: 200, 1600: 800, 1024: 512}  # in a tile, across tiles, of several


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
@pytest.mark.parametrize("small", DTYPES)
def test_attention_over_them_is_attention_over_what_they_stand_for(small, case):
    inside, whole, options = segment(case, small, group=GROUPS.get(case.S))
    expected = attention_cases.literal(whole, options)
    for implementation in ("xla", "reference"):
        attend = functools.partial(partial_attention, implementation=implementation, **options)
        attention_cases.check(jax.jit(attend)(**inside), expected, 2e-5)


def test_keys_are_averaged_too():
    inside, whole, options = segment(CASES[0], "int8")
    attend = functools.partial(partial_attention, with_keys=True, **options)
    actual, expected = (
        attend(**arrays, implementation=name)
        for arrays, name in ((inside, "xla"), (whole, "reference"))
    )
    attention_cases.check(actual, expected, 2e-5)


def test_nothing_larger_than_a_tile_is_made_whole():
    """Of 64K keys, in the program for one query and in that for many."""
    k: Any = jax.ShapeDtypeStruct((1, 65536, 2, 32), jnp.int8)
    of_keys: Any = jax.ShapeDtypeStruct((1, 65536, 2), jnp.bfloat16)
    feature: Any = jax.ShapeDtypeStruct((1, 16, 2, 32), jnp.bfloat16)
    scales = compressed.Scales(of_keys, of_keys, feature)

    def attend(q: Any, k: Any, v: Any, scales: Any) -> Any:
        own = Segment(k, v, jnp.full(1, 60000), scales=scales)
        return partial_attention(q, [own], scale=0.1, implementation="xla")

    for queries in (1, 300):
        q = jax.ShapeDtypeStruct((1, queries, 4, 32), jnp.bfloat16)
        written = aot_program(jax.jit(attend).lower(q, k, k, scales).compile())
        assert max(i.elements for i in written) < k.size / 4


def aot_program(compiled: Any) -> list[Any]:
    import aot

    return [i for i in aot.Program(compiled).writes(1) if re.match(r"\(?(bf16|f16|f32)\[", i.type)]


ERROR = {"int8": 0.05, "fp8": 0.3}  # of logits, where the largest are about 5
QUERIES = [tiny.ids(n, seed=n) for n in (5, 9, 3)]


def engine(attention: Any, cache: str | None, *, model: Any = None, **axes: Any) -> Engine:
    return Engine(
        tiny.model() if model is None else model,
        mesh=star_jax.make_mesh(**axes),
        attention=attention,
        tokenizer=Letters(),
        layer_cache=KINDS[cache] if cache else Plain,
    )


def as_plain(context: Any) -> Any:
    """The context with what its numbers in 8 bits stand for, as the plain kind keeps it."""

    def plain(layer: Any) -> Plain:
        rows, groups, group = layer.k.shape[:3]
        k, v = (np.asarray(x, np.float64) for x in (layer.k, layer.v))
        k = k * np.asarray(layer.k_scale, np.float64)[..., None]
        k = k * np.asarray(layer.feature, np.float64)[:, :, None]
        v = v * np.asarray(layer.v_scale, np.float64)[..., None]
        put = jax.sharding.NamedSharding(context.mesh, star_jax.runtime.mesh.CACHE)
        flat = (rows, groups * group, *k.shape[3:])
        return Plain(
            *(jax.device_put(jnp.asarray(x.reshape(flat), "float32"), put) for x in (k, v))
        )

    groups = tuple(
        dataclasses.replace(
            group, cache=group.cache._replace(layers=tuple(map(plain, group.cache.layers)))
        )
        for group in context.groups
    )
    return dataclasses.replace(context, groups=groups)


PLAIN, MENDED = Star(block_size=64, anchor_size=8), Star(block_size=37, halo=5, correction="both")


@pytest.mark.parametrize(
    ("attention", "cache"),
    [
        *((MENDED, "int8"), (PLAIN, "fp8")),
        *further((MENDED, "fp8"), (PLAIN, "int8"), (Ring(), "int8"), (Ring(), "fp8")),
    ],
)
def test_an_engine_answers_as_with_what_its_cache_stands_for(attention, cache):
    plain, small = engine(attention, None, context=2), engine(attention, cache, context=2)
    context = small.prefill(tiny.ids(300))
    assert context.groups[0].cache.kind is KINDS[cache]
    other = as_plain(context)
    for one, expected in zip(
        small.score(context, QUERIES), plain.score(other, QUERIES), strict=True
    ):
        assert tiny.difference(one, expected) < 2e-5
    how: Any = {"max_new_tokens": 8, "ignore_eos": True}
    assert small.generate(context, QUERIES, **how) == plain.generate(other, QUERIES, **how)
    exact = plain.score(plain.prefill(tiny.ids(300)), QUERIES[0])
    error = tiny.difference(small.score(context, QUERIES[0]), exact)
    assert 0 < error < ERROR[cache]


@pytest.mark.parametrize(
    "attention", [Star(block_size=32, anchor_size=8, halo=4), *further(Ring())]
)
@pytest.mark.parametrize("cache", ["int8", *further(None)])
def test_extending_in_steps_is_encoding_at_once(attention, cache):
    """Within a block, to its end, and beyond it. In 8 bits the anchor was rounded, too."""
    e, ids = engine(attention, cache, context=2), tiny.ids(300)
    context = e.prefill(ids[:70])
    for start, end in ((70, 128), (128, 200), (200, 300)):
        context = e.extend(context, ids[start:end])
    once = e.prefill(ids)
    assert (
        context.tokens == once.tokens and context.groups[0].cache.kind is once.groups[0].cache.kind
    )
    error = tiny.difference(e.score(context, QUERIES[0]), e.score(once, QUERIES[0]))
    assert error < (2e-4 if cache is None or isinstance(attention, Ring) else ERROR[cache])


@pytest.mark.parametrize("cache", DTYPES)
def test_a_cache_takes_about_half_of_the_bytes(cache):
    model = tiny.model(dtype="bfloat16", head_dim=64, num_hidden_layers=1)
    contexts = [
        engine(Star(block_size=128), kind, model=model).prefill(tiny.ids(1024))
        for kind in (None, cache)
    ]
    plain, small = (
        sum(x.nbytes for x in jax.tree.leaves(c.groups[0].cache.layers)) for c in contexts
    )
    assert plain == 2 * 1024 * 2 * 64 * 2  # K and V, tokens, heads, head dim, bytes
    assert 0.5 * plain < small <= 0.53 * plain


@pytest.mark.parametrize("waves", [1, 3])
def test_a_block_that_is_no_whole_rows_of_a_copy_takes_no_more_waves(waves):
    e = engine(Star(block_size=100), "int8")
    context = e.prefill(tiny.ids(100 * waves))
    assert rooms(context) == {waves}
    assert rooms(e.extend(context, tiny.ids(200, seed=1))) == {waves + 2}


def rooms(context: Any) -> set[int]:
    return {layer.k.shape[1] for layer in context.groups[0].cache.layers}


def test_a_context_says_what_it_is_kept_in_and_any_engine_may_ask_it():
    plain, small = engine(Star(block_size=32), None), engine(Star(block_size=32), "int8")
    context = small.prefill(tiny.ids(70))
    assert "float32, cache int8, mesh" in repr(context)
    assert small.fingerprint.cache == "int8" and plain.fingerprint.cache is None
    assert tiny.difference(plain.score(context, QUERIES[0]), small.score(context, QUERIES[0])) == 0
    assert plain.with_cache("int8").prefill(tiny.ids(70)).groups[0].cache.kind is KINDS["int8"]
    assert small.with_attention(Ring()).fingerprint.cache == "int8"
    assert small.with_cache(None).fingerprint.cache is None


def test_a_batch_on_every_axis():
    e = engine(Star(block_size=32), "int8", data=2, context=2, tensor=2)
    lengths = [100, 300]
    batch = e.prefill([tiny.ids(n) for n in lengths])
    for n, query, score in zip(lengths, QUERIES, e.score(batch, QUERIES[:2]), strict=False):
        assert tiny.difference(score, e.score(e.prefill(tiny.ids(n)), query)) < 1e-5


def test_what_is_not_served_is_named():
    with pytest.raises(ValueError, match="cache_dtype='int4' must be one of"):
        Engine.from_pretrained(
            "nowhere", mesh=star_jax.make_mesh(), attention=Ring(), cache_dtype="int4"
        )
    inside, _, options = segment(CASES[0], "int8")
    with pytest.raises(NotImplementedError, match="implementation='cudnn' has no attention over"):
        partial_attention(**inside, **options, implementation="cudnn")
    (own,) = inside["segments"]
    wrong = dataclasses.replace(own, scales=own.scales._replace(v=own.scales.v[:, 1:]))
    with pytest.raises(ValueError, match=r"scales of shapes .* do not fit"):
        partial_attention(inside["q"], [wrong], **options, implementation="xla")
