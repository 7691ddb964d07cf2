"""Other anchors than Star Attention's, for studies of what an anchor is worth.

Every block from the second on is encoded behind an anchor of its own, as in the published code:
one forward of [anchor | block], of which the block's keys are kept. That is twice the work of
`Star`, whose anchor is the same for all blocks and is computed once; what it is for are the
paper's ablations (Acharya et al., ICML 2025, section 4.3 and table 4).

Layers with windows are not served: what a window sees before a block is no anchor.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from star_jax.array_typing import Array, Int, Keys, PerRow, Positions, Queries, Tokens, Values
from star_jax.attention import Segment
from star_jax.cache.sharded import Cache, Kept, Shards, pad, resize, write
from star_jax.models import Decoder, DecoderConfig, LayerSpec
from star_jax.prefill import star as star_lib
from star_jax.prefill.star import Star
from star_jax.prefill.steps import Step, Steps
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT, TENSOR
from star_jax.runtime.runtime import Runtime, compiled_once
from star_jax.sizes import shown, whole

CONTENTS = ("first", "previous", "earlier", "shuffled", "random", "constant", "query")
POSITIONS = ("first", "previous", "random")


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class OtherAnchor:
    """Star Attention with another anchor, for ablations.

    block_size, anchor_size: see `Star`.
    content: which tokens the anchor of a block has. "first": the context's first, as in `Star`;
      "previous": the last ones before the block; "earlier": the first ones of a block before it,
      drawn at random; "shuffled": the context's first in random order; "random": of the
      vocabulary; "constant": the context's most frequent token, repeated; "query": the tokens of
      `query`, and behind them the context's first.
    positions: where the anchor stands for RoPE. "first": at the context's first positions;
      "previous": at the last ones before the block; "random": at positions before the block,
      drawn at random, in growing order.
    query: for the content "query". The context is then encoded for this one question.

    What is drawn depends on the length of the context and on the block alone.
    """

    name: ClassVar[str] = "anchors"
    is_exact: ClassVar[bool] = False
    has_blocks: ClassVar[bool] = False

    block_size: int
    anchor_size: int
    content: str = "first"
    positions: str = "first"
    query: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", whole("block_size", self.block_size))
        object.__setattr__(self, "anchor_size", whole("anchor_size", self.anchor_size))
        object.__setattr__(self, "query", tuple(int(i) for i in self.query))
        if self.anchor_size > self.block_size:
            raise ValueError(
                f"anchor_size={self.anchor_size} is above block_size={self.block_size}: "
                "the anchor is taken from one block"
            )
        for field, known in (("content", CONTENTS), ("positions", POSITIONS)):
            if (given := getattr(self, field)) not in known:
                raise ValueError(f"{field}={shown(given)} must be one of {list(known)}")

    def __repr__(self) -> str:
        given = self.sizes | self.mending
        return f"OtherAnchor({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def _star(self) -> Star:
        return Star(block_size=self.block_size, anchor_size=self.anchor_size)

    @property
    def sizes(self) -> dict[str, int]:
        return {"block_size": self.block_size, "anchor_size": self.anchor_size}

    @property
    def mending(self) -> dict[str, int | str]:
        return {"content": self.content, "positions": self.positions}

    @property
    def label(self) -> str:
        return f"star_b{self.block_size}_a{self.anchor_size}_{self.content}@{self.positions}"

    def asking(self, query: Sequence[int]) -> "OtherAnchor | None":
        """See `kinds.Kind`: with this question as its anchor, if that is its content."""
        if self.content != "query" or self.query:
            return None
        return dataclasses.replace(self, query=tuple(query))

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """See `kinds.Kind`. It serves any mesh.

        Raises:
          NotImplementedError: the model has layers with windows.
        """
        del mesh
        if config.window is not None:
            raise NotImplementedError(f"{self!r} of a model that has layers with windows; use Star")

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """As for `Star`."""
        return self._star.advice(lengths, config, mesh)

    def deal(self, length: int, devices: int) -> tuple[Shards, int]:
        """As for `Star`."""
        return self._star.deal(length, devices)

    def encode(self, model: Decoder, rows: list[list[int]], *, runtime: Runtime) -> Steps:
        """See `kinds.Kind`."""
        if self.asking([0]):
            raise ValueError(f"{self!r} encodes a context for one question: give it with `asking`")
        mesh, devices = runtime.mesh, runtime.mesh.shape[CONTEXT]
        new = star_lib.sizes(self._star, max(map(len, rows)), devices)
        run = program(runtime, new.rules.anchor)
        waves = (
            run(model, *inputs)
            for inputs in self._inputs(rows, new, runtime, vocab_size=model.config.vocab_size)
        )
        kept = next(waves)
        if new.room > new.block:
            kept = resize(kept, new.room, of=new.block, wave=new.block, mesh=mesh)
        yield Step.to(new.span, rows, kept)
        for w, wave in enumerate(waves, start=1):
            kept = write(kept, wave, w, mesh=mesh)
            yield Step.to((w + 1) * new.span, rows, kept)
        return star_lib.dealt_blocks(rows, new, kept, runtime)

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
        """See `kinds.Kind`. All is encoded anew."""
        del cache, shards, encoded
        return (yield from self.encode(model, rows, runtime=runtime))

    def _inputs(
        self, rows: list[list[int]], new: star_lib.Sizes, runtime: Runtime, *, vocab_size: int
    ) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        """Tokens and positions [B, C*(A+b)], and hidden keys [B, C], wave after wave.

        The first block has no anchor: what stands in its place is hidden.
        """
        block, anchor = new.block, new.rules.anchor
        padded = pad(rows, new.waves * new.span)
        put = functools.partial(runtime.put, spec=mesh_lib.BLOCKS)
        for begin in range(0, new.waves * new.span, new.span):
            starts = range(begin, begin + new.span, block)
            tokens = [
                [
                    part
                    for start in starts
                    for part in (
                        self._content(row, start, anchor, vocab_size),
                        all_of_row[start : start + block],
                    )
                ]
                for row, all_of_row in zip(rows, padded, strict=True)
            ]
            positions = [
                part
                for start in starts
                for part in (self._positions(start, anchor), np.arange(start, start + block))
            ]
            hidden = [anchor if start == 0 else 0 for start in starts]
            yield (
                put(np.stack([np.concatenate(parts) for parts in tokens]).astype(np.int32)),
                put(np.tile(np.concatenate(positions).astype(np.int32), (len(rows), 1))),
                put(np.tile(np.asarray(hidden, np.int32), (len(rows), 1))),
            )

    def _content(self, row: list[int], start: int, anchor: int, vocab_size: int) -> np.ndarray:
        """The tokens of the anchor of the block that begins at `start`: int [anchor]."""
        first, rng = np.resize(row or [0], anchor), _draws(self.content, start, len(row))
        if start == 0 or start >= len(row) or self.content == "first":
            return first
        match self.content:
            case "previous":
                return np.asarray(row[start - anchor : start])
            case "earlier":
                at = rng.integers(start // self.block_size) * self.block_size
                return np.asarray(row[at : at + anchor])
            case "shuffled":
                return rng.permutation(first)
            case "random":
                return rng.integers(vocab_size, size=anchor)
            case "constant":
                return np.full(anchor, Counter(row).most_common(1)[0][0])
            case _:
                return np.asarray([*self.query, *row])[:anchor]

    def _positions(self, start: int, anchor: int) -> np.ndarray:
        """Where the anchor of the block that begins at `start` stands: int [anchor]."""
        if start == 0 or self.positions == "first":
            return np.arange(anchor)
        if self.positions == "previous":
            return np.arange(start - anchor, start)
        return np.sort(_draws(self.positions, start, 0).choice(start, anchor, replace=False))


def _draws(what: str, start: int, length: int) -> np.random.Generator:
    return np.random.default_rng([*what.encode(), start, length])


@compiled_once
def program(runtime: Runtime, anchor: int) -> Wrapped:
    """encode(model, tokens [B, C*(A+b)], positions, hidden [B, C]) -> Kept, C*b keys.

    hidden: how many keys, from the first on, each device's block does not see.
    """

    def encode(
        model: Decoder, tokens: Tokens, positions: Positions, hidden: Int[Array, "B 1"]
    ) -> Kept:
        attend = Anchored(anchor, hidden[:, 0], runtime)
        return model.run(tokens, positions, attend, (), axis=TENSOR)[1]

    blocks = mesh_lib.BLOCKS
    return runtime.program(encode, (runtime.weights, blocks, blocks, blocks), runtime.layers)


@dataclasses.dataclass(frozen=True)
class Anchored:
    """Causal attention of [anchor | block]; the state is what the layers keep of the block."""

    anchor: int
    hidden: PerRow
    runtime: Runtime

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: Kept) -> Kept:
        return (*state, self.runtime.layer_cache.of(k[:, self.anchor :], v[:, self.anchor :]))

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: Kept
    ) -> tuple[Queries, Kept]:
        own = Segment(k, v, causal=True, begin=self.hidden)
        return self.runtime.attention(spec)(q, [own]).out, state
