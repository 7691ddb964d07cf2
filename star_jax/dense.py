"""Exact attention, for comparison: queries sharded over `context`, keys and values gathered.

Every device holds one contiguous part of the context and keeps its keys and values, so
that phase 2 reads the same kind of cache as after Star Attention.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.stages import Wrapped

from star_jax import mesh as mesh_lib
from star_jax.array_typing import Array, Keys, Queries, Tokens, Values
from star_jax.attention import partial_attention
from star_jax.cache import KV, Cache, bucket, pad
from star_jax.mesh import CONTEXT
from star_jax.models.config import LlamaConfig
from star_jax.models.llama import Llama


@dataclasses.dataclass(frozen=True)
class Dense:
    """Exact causal attention."""


def encode(model: Llama, rows: list[list[int]], *, mesh: Mesh, implementation: str) -> Cache:
    """Encodes one context per row, of any lengths; the number of rows fits the mesh's `data`."""
    devices = mesh.shape[CONTEXT]
    part = part_length(max(len(row) for row in rows), devices)  # tokens per device
    put = functools.partial(jax.device_put, device=NamedSharding(mesh, mesh_lib.BLOCKS))
    kv = program(model.config, mesh, implementation)(model, put(pad(rows, devices * part)))
    lengths = np.asarray([len(row) for row in rows], np.int32)
    begin = np.arange(devices, dtype=np.int32) * part
    return Cache(kv, put(np.clip(lengths[:, None] - begin, 0, part)))


def part_length(length: int, devices: int) -> int:
    """Tokens per device: rounded up to an eighth of a power of two, which wastes at most 1/8."""
    part = -(-length // devices)
    step = max(bucket(part) // 8, 8)
    return -(-part // step) * step


@functools.cache
def program(config: LlamaConfig, mesh: Mesh, implementation: str) -> Wrapped:
    """dense(model, tokens [B, C*T]) -> KV [B, C*T, K, H], compiled per length."""

    def dense(model: Llama, tokens: Tokens) -> KV:
        batch, part = tokens.shape
        start = jax.lax.axis_index(CONTEXT) * part
        positions = jnp.broadcast_to(start + jnp.arange(part), (batch, part))
        attend = Gathered(jnp.full((batch,), start), implementation)
        _, (kept, _) = model.run(tokens, positions, attend, (KV((), ()), None))
        return kept

    local = jax.shard_map(
        dense,
        mesh=mesh,
        in_specs=(mesh_lib.weight_specs(config), mesh_lib.BLOCKS),
        out_specs=mesh_lib.CACHE,
        check_vma=False,
    )
    return jax.jit(local, compiler_options=mesh_lib.compiler_options(mesh))


State = tuple[KV, tuple[Array, Array] | None]  # what is kept; this layer's K and V, gathered


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Causal attention to the keys of all devices."""

    offset: Array  # [B], the position of this device's first token
    implementation: str

    def start(self, layer: int, k: Keys, v: Values, state: State) -> State:
        kept = KV((*state[0].k, k), (*state[0].v, v))
        packed = jnp.stack([k, v])
        if jax.lax.axis_size(CONTEXT) > 1:
            # [2, B, T, K, H] -> [2, B, C*T, K, H]
            packed = jax.lax.all_gather(packed, CONTEXT, axis=2, tiled=True)
        return kept, (packed[0], packed[1])

    def __call__(
        self, layer: int, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]:
        kept, gathered = state
        if gathered is None:
            raise RuntimeError("start() comes before the call")
        alone = jax.lax.axis_size(CONTEXT) == 1
        part = partial_attention(
            q,
            *gathered,
            causal=True,
            q_offset=None if alone else self.offset,
            scale=q.shape[-1] ** -0.5,
            implementation=self.implementation,
        )
        return part.out, (kept, None)
