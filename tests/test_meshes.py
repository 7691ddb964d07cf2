"""Every kind of attention on every shape of mesh: the same answers, keys and values."""

import functools
import itertools
import re
from typing import Any

import chex
import llamas
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Dense, Engine, Ring, Star, Ulysses, checkpoint, models
from star_jax.runtime import mesh as mesh_lib

MESHES = {"1x8x1": (1, 8, 1), "1x4x2": (1, 4, 2), "1x2x4": (1, 2, 4), "2x2x2": (2, 2, 2)}
MESHES["1x1x8"] = (1, 1, 8)
BLOCK, LENGTH, QUERY, NEW, TOLERANCE = 32, 250, 9, 12, 1e-4
KINDS: dict[str, Any] = {
    "star": Star(block_size=BLOCK),
    "dense": Dense(),
    "ring": Ring(),
    "ulysses": Ulysses(),
}

# Most tests of star are on eight devices of `context`.
SOME = [(kind, "2x2x2") for kind in KINDS]
SOME += [("star", "1x4x2"), ("ring", "1x8x1"), ("ulysses", "1x1x8")]

# Heads for eight devices on any axis, with groups of two; the rest as in Llama 3.1.
FIELDS = {
    **llamas.VARIANTS["llama-3.1"],
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 8,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    return llamas.write(path, llamas.build(FIELDS), FIELDS)


def ids(length, seed=0):
    return tiny.ids(length, seed, FIELDS["vocab_size"])


def make_mesh(shape):
    return star_jax.make_mesh(**dict(zip(mesh_lib.AXES, shape, strict=True)))


@functools.cache
def load(directory, shape):
    return Engine.from_pretrained(
        directory, mesh=make_mesh(shape), attention=Dense(), dtype="float32"
    )


def engine(directory, shape, kind):
    return load(directory, shape).with_attention(KINDS[kind])


@functools.cache
def whole(directory):
    """The model on one device."""
    mesh = star_jax.make_mesh()
    return checkpoint.load(directory, models.read(directory), mesh=mesh, dtype="float32")


@functools.cache
def literal(directory, is_star):
    """Logits, K and V, greedy tokens and how clear each was; exact attention is one block."""
    sizes = (BLOCK, BLOCK) if is_star else (LENGTH, 0)
    model, context, query = whole(directory), ids(LENGTH), ids(QUERY, seed=1)
    return (
        *tiny.literal_score(model, context, query, *sizes),
        *tiny.literal_generate(model, context, query, *sizes, NEW),
    )


def test_the_literal_algorithm_of_one_block_is_transformers(directory):
    both = np.asarray([ids(LENGTH) + ids(QUERY, seed=1)])
    expected = llamas.their_logits(llamas.build(FIELDS), both)[0, LENGTH:]
    assert tiny.difference(literal(directory, False)[0], expected) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        *SOME,
        *further(*(both for both in itertools.product(KINDS, MESHES) if both not in SOME)),
    ],
)
def test_every_kind_on_every_mesh(kind, mesh, directory):
    e = engine(directory, MESHES[mesh], kind)
    logits, k, v, tokens, gaps = literal(directory, kind == "star")
    context = e.prefill(ids(LENGTH))
    for actual, expected in zip(tiny.kept(e, context), (k, v), strict=True):
        for one, other in zip(actual, expected, strict=True):
            assert tiny.difference(one, other) < TOLERANCE
    assert tiny.difference(e.score(context, ids(QUERY, seed=1)), logits) < TOLERANCE
    sure = next((i for i, gap in enumerate(gaps) if gap < 10 * TOLERANCE), NEW)
    assert sure > NEW // 2  # otherwise this test says little
    answer = e.generate(context, ids(QUERY, seed=1), max_new_tokens=NEW, ignore_eos=True)
    assert answer.tokens[:sure] == tokens[:sure]


@pytest.mark.parametrize("kind", ["star", *further("dense", "ring", "ulysses")])
def test_a_ragged_batch_of_five_equals_five_single_runs(kind, directory):
    e = engine(directory, (2, 2, 2), kind)
    contexts = [ids(n) for n in (250, 125, 243, 121, 249)]
    queries = [ids(n, seed=1) for n in (9, 1, 16, 3, 12)]
    batch = e.prefill(contexts)
    answers = e.generate(batch, queries, max_new_tokens=NEW)
    scores = e.score(batch, queries)
    assert len(answers) == len(scores) == 5
    for context, query, answer, score in zip(contexts, queries, answers, scores, strict=True):
        single = e.prefill(context)
        assert answer == e.generate(single, query, max_new_tokens=NEW)
        assert tiny.difference(score, e.score(single, query)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_context_is_as_if_no_more_were_there(kind, directory):
    e = engine(directory, (1, 4, 2), kind)
    context, query = e.prefill(ids(LENGTH)), ids(QUERY, seed=1)
    for length in (77, 128):
        expected, _, _ = tiny.literal_score(
            whole(directory), ids(LENGTH)[:length], query, BLOCK if kind == "star" else LENGTH, 32
        )
        assert tiny.difference(e.score(context.prefix(length), query), expected) < TOLERANCE
    with pytest.raises(ValueError, match="length=0"):
        context.prefix(0)


@pytest.mark.parametrize("tensor", [8, *further(4)])
def test_each_device_has_the_key_head_that_its_queries_read(tensor):
    """Two key heads for four and for eight devices; and a vocabulary that is not divided."""
    model = tiny.model(num_attention_heads=8, num_key_value_heads=2, head_dim=8, vocab_size=129)
    mesh = star_jax.make_mesh(context=8 // tensor, tensor=tensor)
    e = Engine(model, mesh=mesh, attention=Star(block_size=32))
    k_weight = e.model.layers[0].attention.k_weight[...]
    assert k_weight.shape[0] == tensor
    assert {s.data.shape[0] for s in k_weight.addressable_shards} == {1}
    logits, k, v = tiny.literal_score(model, tiny.ids(150), tiny.ids(9, seed=1), 32, 32)
    context = e.prefill(tiny.ids(150))
    assert tiny.difference(e.score(context, tiny.ids(9, seed=1)), logits) < TOLERANCE
    for actual, expected in zip(tiny.kept(e, context), (k, v), strict=True):
        assert tiny.difference(actual[1], expected[1]) < TOLERANCE
    assert e.with_attention(Dense()).model.layers[0].attention.k_weight[...] is k_weight


@pytest.mark.long
def test_key_heads_are_repeated_as_they_are_loaded(tmp_path):
    """The same from a checkpoint: no device holds more than its head."""
    fields = {**FIELDS, "num_attention_heads": 8, "num_key_value_heads": 2, "attention_bias": True}
    llamas.write(tmp_path, llamas.build(fields), fields)
    one, eight = (
        Engine.from_pretrained(tmp_path, mesh=m, attention=Dense(), dtype="float32")
        for m in (star_jax.make_mesh(), make_mesh((1, 1, 8)))
    )
    key, bias = (eight.model.layers[1].attention.__dict__[n][...] for n in ("k_weight", "k_bias"))
    whole_key = one.model.layers[1].attention.k_weight[...]
    chex.assert_trees_all_equal(key, np.repeat(whole_key, 4, axis=0))
    chex.assert_shape(bias, (8, 8))
    scores = [e.score(e.prefill(ids(40)), ids(3)) for e in (one, eight)]
    assert tiny.difference(*scores) < TOLERANCE


@pytest.mark.parametrize(
    ("shape", "kind", "fields", "message"),
    [
        ((1, 1, 3), "star", {}, "heads=4 cannot be divided over tensor=3 devices"),
        ((1, 1, 8), "star", {}, "heads=4 cannot be divided over tensor=8 devices"),
        ((1, 1, 4), "dense", {"intermediate_size": 98}, "mlp=98 cannot be divided over tensor=4"),
        (
            (1, 1, 3),
            "ring",
            {"num_attention_heads": 6, "hidden_size": 96},
            "kv_heads=2 cannot be divided over tensor=3 devices",
        ),
        ((1, 4, 1), "ulysses", {}, "num_key_value_heads 2 per device of tensor=1 .* context=4"),
        ((1, 2, 2), "ulysses", {}, "num_key_value_heads 1 per device of tensor=2 .* context=2"),
    ],
)
def test_heads_that_cannot_be_divided_are_refused(shape, kind, fields, message):
    with pytest.raises(ValueError, match=message):
        Engine(tiny.model(**fields), mesh=make_mesh(shape), attention=KINDS[kind])


def test_a_star_of_two_blocks_is_said_to_be_no_faster():
    e = Engine(tiny.model(), mesh=star_jax.make_mesh(), attention=Star(block_size=32))
    message = "64 tokens are 2 block(s) of 32: exact attention would be as fast"
    with pytest.warns(UserWarning, match=re.escape(message)):
        e.prefill(tiny.ids(64))
