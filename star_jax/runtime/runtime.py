"""What a model runs with, as one object: every program is compiled for one of these, and kept."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.stages import Wrapped

from star_jax.array_typing import Queries
from star_jax.attention import Partial, Segment, for_layer, partial_attention
from star_jax.models import Decoder, DecoderConfig, LayerSpec
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import weight_specs

# `partial_attention` with all but queries and segments given.
Attention = Callable[[Queries, list[Segment]], Partial]

# What makes programs keeps those of so many runtimes, sizes and modes, the last ones used. A
# process that serves one model needs about ten; one that loads model after model keeps no more.
PROGRAMS = 128
compiled_once = functools.lru_cache(maxsize=PROGRAMS)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A model's configuration, its mesh, and how attention is computed and kept there.

    implementation: of attention. layer_cache: what a layer keeps of a context; see
    `cache.layer.LayerCache`. keep: of phase 1 alone, the share of keys kept; see `prefill.keeping`.
    """

    config: DecoderConfig
    mesh: Mesh
    implementation: str
    layer_cache: type[Any]
    keep: Any = None

    def keeping(self, layer_cache: type[Any]) -> "Runtime":
        """The same for contexts whose layers keep another kind."""
        return dataclasses.replace(self, layer_cache=layer_cache)

    @property
    def weights(self) -> Decoder:
        """Where the model's weights lie, in both phases: a `PartitionSpec` for each."""
        return weight_specs(self.config, self.mesh)

    @property
    def layers(self) -> tuple[Any, ...]:
        """Where what the layers keep of a context lies: `PartitionSpec`s for each layer."""
        return (self.layer_cache.layout(),) * self.config.num_layers

    def put(self, x: np.ndarray | np.generic, spec: P = mesh_lib.ROWS) -> jax.Array:
        """Puts a host array on the mesh, by rows of the batch unless told otherwise."""
        return mesh_lib.put_on(self.mesh)(x, spec)

    def attention(self, spec: LayerSpec, *, with_keys: bool = False) -> Attention:
        """`partial_attention` as a layer wants it, by an implementation that serves the layer."""
        serving = for_layer(self.implementation, window=spec.window, soft_cap=spec.soft_cap)
        return functools.partial(
            partial_attention,
            scale=spec.scale,
            soft_cap=spec.soft_cap,
            implementation=serving,
            with_keys=with_keys,
        )

    def program(
        self, f: Callable[..., Any], in_specs: Any, out_specs: Any, **options: Any
    ) -> Wrapped:
        """`f`, which is written for one device, on all of the mesh. `options` are of `jax.jit`."""
        local = jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        return jax.jit(local, compiler_options=mesh_lib.compiler_options(self.mesh), **options)
