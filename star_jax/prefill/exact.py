"""Exact causal attention in phase 1: dense, ring and Ulysses share all but the attention itself.

The whole context goes through the model at once, dealt out to the devices of `context`. Every
device keeps the keys and values of its own tokens, so that phase 2 reads the same kind of cache
as after Star Attention.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from star_jax.array_typing import Keys, Positions, Queries, Tokens, Values
from star_jax.cache.sharded import ROUND, Cache, Kept, Shards, dealt, eighths, pad
from star_jax.models import Attend, Decoder, DecoderConfig, LayerSpec
from star_jax.prefill.steps import Step, Steps
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once


class Exact(abc.ABC):
    """A kind of exact attention: `Dense`, `Ring` or `Ulysses`; see `kinds.Kind`."""

    name: ClassVar[str]
    is_exact: ClassVar[bool] = True
    has_blocks: ClassVar[bool] = False

    @abc.abstractmethod
    def chunks(self, devices: int) -> tuple[tuple[int, ...], ...]:
        """Which of equal chunks of the context each device holds, in growing order."""

    @abc.abstractmethod
    def attend(self, positions: Positions, runtime: Runtime) -> Attend:
        """Attention of one device, whose tokens have these positions; for `shard_map`."""

    @property
    def sizes(self) -> dict[str, int]:
        return {}

    @property
    def mending(self) -> dict[str, int | str]:
        return {}

    @property
    def label(self) -> str:
        return self.name

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """Raises nothing, unless a kind has more to ask for."""
        del config, mesh

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """None: no other kind does the same faster wherever this one runs."""
        return []

    def asking(self, query: Sequence[int]) -> None:
        """None: what is encoded serves all questions."""
        del query

    def deal(self, length: int, devices: int) -> tuple[Shards, int]:
        """See `kinds.Kind`."""
        shards = cut_into_shards(length, self.chunks(devices))
        return shards, len(shards.starts[0]) * shards.size

    def encode(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        runtime: Runtime,
    ) -> Steps:
        """See `kinds.Kind`. It takes one step."""
        devices = runtime.mesh.shape[CONTEXT]
        shards, _ = self.deal(max(map(len, rows)), devices)
        order = shards.positions()
        put = functools.partial(runtime.put, spec=mesh_lib.BLOCKS)
        tokens = put(pad(rows, shards.length)[:, order])
        positions = put(np.broadcast_to(order.astype(np.int32), tokens.shape))
        run = program(runtime, self)
        kept = run(model, tokens, positions)
        yield Step.to(shards.length, rows, kept)
        return dealt(kept, shards, [len(row) for row in rows], runtime), shards

    def extend(
        self,
        model: Decoder,
        rows: list[list[int]],
        *,
        cache: Cache,
        shards: Shards,
        encoded: int,
        runtime: Runtime,
    ) -> Steps:
        """See `kinds.Kind`. All is encoded anew: more tokens are dealt out otherwise."""
        del cache, shards, encoded
        return (yield from self.encode(model, rows, runtime=runtime))


def cut_into_shards(length: int, chunks: tuple[tuple[int, ...], ...]) -> Shards:
    """Deals out chunks of equal size, which waste at most an eighth (of short ones, 7 tokens)."""
    size = eighths(-(-length // sum(map(len, chunks))), least=ROUND)
    return Shards(tuple(tuple(i * size for i in mine) for mine in chunks), size)


@compiled_once
def program(runtime: Runtime, attention: Exact) -> Wrapped:
    """exact(model, tokens [B, C*T], positions [B, C*T]) -> Kept, C*T keys; per length."""

    def exact(model: Decoder, tokens: Tokens, positions: Positions) -> Kept:
        attend = Recording(attention.attend(positions, runtime), runtime)
        _, (layers, _) = model.run(tokens, positions, attend, ((), None), axis=TENSOR)
        return layers

    blocks = mesh_lib.BLOCKS
    return runtime.program(exact, (runtime.weights, blocks, blocks), runtime.layers)


State = tuple[Kept, object]  # of the layers so far; what `attend.start` returned for this one


@dataclasses.dataclass(frozen=True)
class Recording:
    """Attention of some kind, keeping each device's own keys and values."""

    attend: Attend
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State:
        layers = (*state[0], self.runtime.layer_cache.of(k, v))
        return layers, self.attend.start(spec, k, v, None)

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        out, _ = self.attend(spec, q, k, v, state[1])
        return out, (state[0], None)
