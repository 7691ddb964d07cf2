"""The engine with the Triton kernels in it, interpreted, beside the engine with XLA's attention."""

import functools

import jax
import pytest
import tiny
from further import further

import star_jax
from star_jax import Dense, Engine, OtherAnchor, Ring, Star, Streaming, Ulysses
from star_jax.attention import triton

LENGTH, QUERY = 150, 5


@pytest.fixture
def interpreted(monkeypatch):
    run = functools.partial(triton.attend, interpret=True)
    monkeypatch.setattr(triton, "attend", run)
    monkeypatch.setattr(triton, "refuses_device", lambda device: "")


@functools.cache
def model():
    return tiny.model(dtype="bfloat16", head_dim=64, num_attention_heads=4, num_key_value_heads=2)


def answer(attention, implementation):
    """Logits of a query, and tokens drawn after it."""
    mesh = star_jax.make_mesh(context=2, tensor=1)
    engine = Engine(model(), mesh=mesh, attention=attention, implementation=implementation)
    context = engine.prefill([tiny.ids(LENGTH), tiny.ids(LENGTH - 31)])
    query = tiny.ids(QUERY, seed=1)
    logits = engine.score(context, query)
    answers = engine.generate(context, query, max_new_tokens=3)
    assert isinstance(answers, list)
    tokens = [a.tokens for a in answers]
    return logits, tokens


@pytest.mark.parametrize(
    "attention",
    [
        Star(block_size=32, anchor_size=20),
        Streaming(sinks=8, window=40),
        *further(Ring(), Ulysses(), OtherAnchor(block_size=32, anchor_size=20, content="random")),
    ],
    ids=["star", "streaming", "ring", "ulysses", "random"],
)
def test_the_kernels_serve_every_kind_of_attention(attention, interpreted):
    expected, _ = answer(attention, "xla")
    actual, tokens = answer(attention, "triton")
    for a, e in zip(actual, expected, strict=True):
        assert tiny.difference(a, e) < 0.03  # some steps of bfloat16, through two layers
    assert [len(t) for t in tokens] == [3, 3]


def test_the_programs_hold_the_kernels(interpreted):
    mesh = star_jax.make_mesh(context=2)
    engine = Engine(model(), mesh=mesh, attention=Dense(), implementation="triton")
    assert engine.implementation == "triton"
    assert engine.fingerprint  # of weights, which are then not traced
    jaxpr = str(jax.make_jaxpr(lambda: engine.prefill(tiny.ids(20)).groups[0].cache.layers)())
    assert "pallas_call" in jaxpr
