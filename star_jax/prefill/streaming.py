"""StreamingLLM: every token sees the context's first tokens, the sinks, and a window of the last.

A baseline, for scores and not for speed: phase 1 gathers keys and values as dense attention does,
and then keeps those of the sinks and of the window alone. A question sees all that is kept, and
what comes after it; the window does not move on while it is asked and answered. Tokens keep their
own positions. (The published code counts positions within what is kept.)

Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024,
section 3.2.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from star_jax.array_typing import Array, Int, Keys, Positions, Queries, Values
from star_jax.attention import Segment, merge
from star_jax.cache.sharded import ROUND, Cache, Kept, Shards, eighths
from star_jax.models import Decoder, DecoderConfig, LayerSpec
from star_jax.prefill.dense import Dense, Gathered
from star_jax.prefill.steps import Steps
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.runtime import Runtime, compiled_once
from star_jax.sizes import whole


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Streaming(Dense):
    """StreamingLLM. Each token sees the first `sinks` tokens, and `window` tokens up to its own."""

    name: ClassVar[str] = "streaming"
    is_exact: ClassVar[bool] = False

    sinks: int
    window: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "sinks", whole("sinks", self.sinks, least=0))
        object.__setattr__(self, "window", whole("window", self.window))

    def __repr__(self) -> str:
        return f"Streaming(sinks={self.sinks}, window={self.window})"

    @property
    def sizes(self) -> dict[str, int]:
        return {"sinks": self.sinks, "window": self.window}

    @property
    def label(self) -> str:
        return f"{self.name}_s{self.sinks}_w{self.window}"

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """See `kinds.Kind`.

        Raises:
          NotImplementedError: the model has layers with windows of its own.
        """
        if config.window is not None:
            raise NotImplementedError(f"{self!r} of a model that has layers with windows")

    def attend(self, positions: Positions, runtime: Runtime) -> "Streamed":
        """See `exact.Exact`."""
        return Streamed(positions[:, 0], runtime, self.sinks, self.window)

    def encode(self, model: Decoder, rows: list[list[int]], *, runtime: Runtime) -> Steps:
        """See `kinds.Kind`. Of what dense attention would keep, it keeps sinks and window."""
        cache, shards = yield from super().encode(model, rows, runtime=runtime)
        at, counts = self._places([len(row) for row in rows], shards)
        thinned = thin(runtime)(cache.layers, runtime.put(at, mesh_lib.PLACES))
        lengths = tuple(map(len, rows))
        return (
            Cache(thinned, runtime.put(counts, mesh_lib.BLOCKS)),
            Thinned(shards.starts, shards.size, self, lengths, tuple(map(tuple, counts.tolist()))),
        )

    def _places(self, lengths: Sequence[int], shards: Shards) -> tuple[np.ndarray, np.ndarray]:
        """Where in each shard what is kept lies, int32 [B, C, n], and how much it is: [B, C]."""
        found = []
        for length in lengths:
            window = range(max(self.sinks, length - self.window), length)
            kept = np.asarray([*range(min(self.sinks, length)), *window], np.int32)
            shard = kept // shards.size  # dense attention gives each device one part
            found.append([kept[shard == c] - c * shards.size for c in range(len(shards.starts))])
        counts = np.asarray([[len(one) for one in row] for row in found], np.int32)
        at = np.zeros((*counts.shape, eighths(max(1, int(counts.max())), least=ROUND)), np.int32)
        for i, row in enumerate(found):
            for c, one in enumerate(row):
                at[i, c, : len(one)] = one
        return at, counts


@dataclasses.dataclass(frozen=True)
class Thinned(Shards):
    """Shards that keep some of their keys only."""

    attention: Streaming
    lengths: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]

    def valid(self, lengths: list[int]) -> np.ndarray:
        """See `Shards.valid`.

        Raises:
          NotImplementedError: the lengths are not those that were encoded.
        """
        if tuple(lengths) != self.lengths:
            raise NotImplementedError(
                f"{self.attention!r} keeps the sinks and the window of the whole context: "
                "a part of it must be encoded for itself"
            )
        return np.asarray(self.counts, np.int32)


@compiled_once
def thin(runtime: Runtime) -> Wrapped:
    """thin(Kept, places [B, C, n]) -> Kept, n keys on each device."""

    def some(layers: Kept, at: Int[Array, "B 1 some"]) -> Kept:
        return tuple(runtime.layer_cache.of(*layer.take(at[:, 0])) for layer in layers)

    return runtime.program(some, (runtime.layers, mesh_lib.PLACES), runtime.layers)


@dataclasses.dataclass(frozen=True)
class Streamed(Gathered):
    """Attention to the sinks, and to a window, of the keys of all devices."""

    sinks: int
    window: int

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: Array
    ) -> tuple[Queries, None]:
        attend = self.runtime.attention(dataclasses.replace(spec, window=self.window))
        k, v = state
        part = attend(q, [Segment(k, v, causal=True, offset=self.offset, window=self.window)])
        if self.sinks:
            # Those that the window has left behind: a second call, as kernels have one mask.
            left = self.offset - self.window
            k, v = k[:, : self.sinks], v[:, : self.sinks]
            part = merge(part, attend(q, [Segment(k, v, causal=True, offset=left)]))
        return part.out, None
