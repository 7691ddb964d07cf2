"""Ways to scale the keys of a cache in few bits, compared on SmolLM2 with prose.

    python -m tools.cache_study --length=2048 --scored=1024

The keys of an encoded context are rounded in each way, the values stay as they are, and the prose
that follows is scored. In 4 bits, which star_jax does not offer, the ways differ more.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import star_jax
from benchmarks import documents
from star_jax import Engine, Star
from star_jax.array_typing import Array, Keys
from star_jax.runs import cli
from tools import smollm2

Way = Callable[[Keys], Keys]


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_integer("length", 2048, "Tokens of the context.", lower_bound=1)
    flags.DEFINE_integer("scored", 1024, "Tokens that are scored.", lower_bound=2)


def main(argv: Sequence[str]) -> None:
    del argv
    length, scored = flags.FLAGS.length, flags.FLAGS.scored
    star, mesh = Star(block_size=max(length // 4, 1)), star_jax.make_mesh()
    engine = Engine.from_pretrained(smollm2.make(), mesh=mesh, attention=star, dtype="float32")
    ids = engine.tokenizer.encode_context(" ".join(documents.sentences()))
    context, query = engine.prefill(ids[:length]), ids[length : length + scored]
    (group,) = context.groups
    plain = engine.likelihood(context, query).logprobs
    print(f"plain: {-plain.mean():.5f} nats per token")
    for name, way in ways().items():
        layers = tuple(layer._replace(k=way(layer.k)) for layer in group.cache.layers)  # type: ignore[attr-defined]
        cache = group.cache._replace(layers=layers)
        other = dataclasses.replace(context, groups=(dataclasses.replace(group, cache=cache),))
        lost = plain - engine.likelihood(other, query).logprobs
        print(f"{name:32} {lost.mean():+.5f} nats, {np.abs(lost).mean():.5f} in size", flush=True)


def ways() -> dict[str, Way]:
    """By their names."""
    return {f"{bits}, {name}": way for bits in ("int8", "fp8", "int4") for name, way in _ways(bits)}


def _ways(bits: str) -> Iterator[tuple[str, Way]]:
    def per_token(k: Keys) -> Keys:
        return _rounded(k, bits, axis=3)

    def per_feature(k: Keys) -> Keys:
        groups = k.reshape(k.shape[0], -1, 64, *k.shape[2:])
        return _rounded(groups, bits, axis=2).reshape(k.shape)

    def but_first(k: Keys) -> Keys:
        return per_feature(k.at[:, 0].set(0)).at[:, 0].set(per_token(k)[:, 0])

    def centred(k: Keys) -> Keys:
        mean = k.mean(axis=1, keepdims=True)
        return per_token(k - mean) + mean

    def both(k: Keys) -> Keys:
        largest = jnp.abs(k).max(axis=1, keepdims=True)
        return per_token(k / largest) * largest

    yield "per token", jax.jit(per_token)
    yield "per feature and 64 keys", jax.jit(per_feature)
    yield "the same but for the first token", jax.jit(but_first)
    yield "per token, means taken out", jax.jit(centred)
    yield "per feature, then per token", jax.jit(both)


def _rounded(x: Array, bits: str, *, axis: int) -> Array:
    largest = {"int8": 127, "int4": 7, "fp8": 448}[bits]
    scale = jnp.abs(x).max(axis=axis, keepdims=True) / largest
    divided: Any = x / jnp.where(scale == 0, 1, scale)
    if bits == "fp8":
        return divided.astype(jnp.float8_e4m3fn).astype(x.dtype) * scale
    return jnp.round(divided) * scale


if __name__ == "__main__":
    define_flags()
    cli.run(main)
