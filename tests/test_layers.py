"""What a model says of its layers, and attention that does what they say, layer by layer."""

import dataclasses
import functools

import chex
import pytest
import tiny

import star_jax
from star_jax import Dense, Engine, Ring, Star, Ulysses
from star_jax.models import DecoderConfig, LayerSpec

BLOCK = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd(DecoderConfig):
    """A model whose layers differ in scale and soft cap."""

    @functools.cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        return (
            LayerSpec(index=0, scale=0.4, soft_cap=0.8, rope=self.rope),
            LayerSpec(index=1, scale=0.1, rope=self.rope),
        )


def odd():
    model = tiny.model()
    model.config = Odd(**vars(tiny.config()))
    return model


def test_a_plain_model_has_plain_layers():
    config = tiny.config(num_hidden_layers=3)
    assert [spec.index for spec in config.layers] == [0, 1, 2]
    assert {dataclasses.replace(spec, index=0) for spec in config.layers} == {
        LayerSpec(index=0, scale=0.25, rope=config.rope)
    }
    assert config.layers is config.layers
    assert dataclasses.replace(config, num_layers=1).layers == config.layers[:1]


@pytest.mark.parametrize(
    "attention",
    [Star(block_size=BLOCK), Dense(), Ring(), Ulysses()],
    ids=lambda a: type(a).__name__,
)
def test_every_kind_of_attention_does_as_the_layers_say(attention):
    model, context, query = odd(), tiny.ids(4 * BLOCK - 5), tiny.ids(6, seed=1)
    block = BLOCK if isinstance(attention, Star) else len(context)
    expected, *_ = tiny.literal_score(model, context, query, block, BLOCK)
    engine = Engine(model, mesh=star_jax.make_mesh(context=2), attention=attention)
    encoded = engine.prefill(context)
    assert tiny.difference(engine.score(encoded, query), expected) < 2e-5
    tokens, gaps = tiny.literal_generate(model, context, query, block, BLOCK, 4)
    assert min(gaps) > 1e-3
    answer = engine.generate(encoded, query, max_new_tokens=4)
    chex.assert_trees_all_equal(answer.tokens, tokens)
