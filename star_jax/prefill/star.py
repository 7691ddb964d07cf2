"""Star Attention: a context is encoded block by block, each block seeing the anchor.

Block i > 0 attends causally to itself, and to all of the anchor, the first `anchor_size`
tokens. With a halo it also sees the last keys of the block before it; with a correction, what
some of its rows find in all other keys before it mends the rest: see `correction`.

All this is of layers that see everything. One with a window computes exact attention: see `window`.

Blocks go in waves of one block per device, and two programs serve contexts of every length:
see `waves`.

Source: Acharya et al., "Star Attention: Efficient LLM Inference over Long Sequences",
ICML 2025, section 2.1; the shared anchor and the halo are ours.
"""

import dataclasses
import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jax.sharding import Mesh

from star_jax.cache.in_two import apart, one_part
from star_jax.cache.sharded import (
    ROUND,
    Cache,
    Kept,
    Shards,
    bucket,
    dealt,
    eighths,
    pad,
    resize,
    write,
)
from star_jax.models import Decoder, DecoderConfig
from star_jax.prefill import waves as wave_lib
from star_jax.prefill.correction import CORRECTIONS, WITH_KEYS, Rules
from star_jax.prefill.keeping import Keep, KeptShards, Slots
from star_jax.prefill.selecting import Filled, parts, together
from star_jax.prefill.steps import Step, Steps
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.mesh import CONTEXT
from star_jax.runtime.runtime import Runtime
from star_jax.sizes import shown, whole


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Star:
    """Star Attention. With `block_size` alone it is the published algorithm.

    block_size: tokens of a block. anchor_size: tokens of the anchor, by default a block; 0 is no
    anchor: allowed, as an ablation. halo: how many keys of the block before it a block also sees.
    correction: "delta", "tangent" or "both", see `correction`; None: none. stride: of this many
    rows of a block the correction attends one exactly.
    """

    name: ClassVar[str] = "star"
    is_exact: ClassVar[bool] = False
    has_blocks: ClassVar[bool] = True

    block_size: int
    anchor_size: int | None = None
    halo: int = 0
    correction: str | None = None
    stride: int = 64

    def __post_init__(self) -> None:
        # As ints: what NumPy counts with may overflow.
        object.__setattr__(self, "block_size", whole("block_size", self.block_size))
        if self.anchor_size is not None:
            object.__setattr__(self, "anchor_size", whole("anchor_size", self.anchor_size, least=0))
        object.__setattr__(self, "halo", whole("halo", self.halo, least=0))
        object.__setattr__(self, "stride", whole("stride", self.stride))
        if self.anchor > self.block_size:
            raise ValueError(
                f"anchor_size={self.anchor} is above block_size={self.block_size}: "
                "the anchor is taken from the first block"
            )
        if self.halo > self.block_size:
            raise ValueError(
                f"halo={self.halo} is above block_size={self.block_size}: "
                "the halo is taken from one block"
            )
        if self.correction is not None and self.correction not in CORRECTIONS:
            raise ValueError(
                f"correction={shown(self.correction)} must be one of {list(CORRECTIONS)}, or None"
            )

    def __repr__(self) -> str:
        given = self.sizes | self.mending
        return f"Star({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def anchor(self) -> int:
        return self.block_size if self.anchor_size is None else self.anchor_size

    @property
    def sizes(self) -> dict[str, int]:
        return {"block_size": self.block_size, "anchor_size": self.anchor}

    @property
    def mending(self) -> dict[str, int | str]:
        found: dict[str, int | str] = {"halo": self.halo} if self.halo else {}
        if self.correction is not None:
            found |= {"correction": self.correction, "stride": self.stride}
        return found

    @property
    def label(self) -> str:
        words = [self.name, f"b{self.block_size}", f"a{self.anchor}"]
        if self.halo:
            words.append(f"h{self.halo}")
        if self.correction is not None:
            words.append(f"{self.correction}{self.stride}")
        return "_".join(words)

    def check(self, config: DecoderConfig, mesh: Mesh) -> None:
        """See `kinds.Kind`. It serves any mesh.

        Raises:
          NotImplementedError: a tangent, of scores that are capped.
        """
        if self.correction in WITH_KEYS and any(layer.soft_cap for layer in config.layers):
            raise NotImplementedError(
                f"correction={self.correction!r} of a model with soft caps: a tangent takes scores "
                "for what they are before the cap; 'delta' does not"
            )

    def advice(self, lengths: Sequence[int], config: DecoderConfig, mesh: Mesh) -> list[str]:
        """Warns of devices without a block, and of so few blocks that nothing is gained."""
        found, longest, devices = [], max(lengths), mesh.shape[CONTEXT]
        blocks = -(-longest // self.block_size)
        if blocks < devices:
            found.append(
                f"{blocks} block(s) of {self.block_size} tokens for {devices} devices on the "
                f"context axis: {devices - blocks} idle; use smaller blocks"
            )
        if blocks <= 2:
            found.append(
                f"{longest} tokens are {blocks} block(s) of {self.block_size}: exact attention "
                "would be as fast; use Ring() or Dense(), or smaller blocks"
            )
        return found

    def asking(self, query: Sequence[int]) -> None:
        """None: what is encoded serves all questions."""
        del query

    def deal(self, length: int, devices: int) -> tuple[Shards, int]:
        """See `kinds.Kind`."""
        new = sizes(self, length, devices)
        return blocks(new), new.room

    def encode(self, model: Decoder, rows: list[list[int]], *, runtime: Runtime) -> Steps:
        """See `kinds.Kind`."""
        return _encode(model, rows, self, runtime)

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
        """See `kinds.Kind`. The wave that holds the first new token is encoded anew."""
        mesh, devices = runtime.mesh, runtime.mesh.shape[CONTEXT]
        new = sizes(self, max(map(len, rows)), devices, runtime.keep)
        first = encoded // new.span
        lost = new.rules.halo and runtime.keep is not None  # not all of the halo was kept
        if first == 0 or new.block != shards.size or lost:
            return (yield from self.encode(model, rows, runtime=runtime))
        # A copy: the context that is extended stays as it is. It may have been longer once.
        old = new.rooms(runtime, waves=len(shards.starts[0]))
        kept, *shared = apart(cache.layers)
        runtime = runtime.keeping(type(kept[0]))
        wave = new.wave_keys(runtime)
        kept = resize(kept, new.rooms(runtime), of=old, wave=wave, mesh=mesh)
        keys = np.int32(first * new.block)
        before = wave_lib.resume(runtime, new.rules, new.block)(kept, keys, *shared)
        kept = yield from _later_waves(model, rows, new, kept, before, first, runtime)
        return dealt_blocks(rows, new, kept, runtime, *shared)


class Sizes(NamedTuple):
    """What phase 1 is compiled and makes room for, in tokens but for `waves`.

    rules: the sizes of anchor, halo and correction. room: keys of a context that each device has
    room for. span: tokens of a wave.
    """

    block: int
    rules: Rules
    waves: int
    room: int
    span: int

    def rooms(self, runtime: Runtime, *, waves: int | None = None) -> tuple[int, ...]:
        """How many keys of so many waves each device has room for, in each layer."""
        waves, slots = waves or self.waves, self.rules.slots
        return tuple(
            room(waves, self.block) if slots is None or layer.window else slots.room(waves)
            for layer in runtime.config.layers
        )

    def wave_keys(self, runtime: Runtime) -> tuple[int, ...]:
        """How many keys a wave has on each device, in each layer."""
        slots = self.rules.slots
        return tuple(
            self.block if slots is None or layer.window else slots.keys
            for layer in runtime.config.layers
        )


def sizes(attention: Star, longest: int, devices: int, keep: Keep | None = None) -> Sizes:
    """Those of contexts of at most `longest` tokens, on so many devices of `context`."""
    block = min(attention.block_size, bucket(longest))  # 100 tokens do not cost a whole block
    waves = -(-longest // (devices * block))
    rules = Rules(min(attention.anchor, block))
    if longest > block:  # one block sees everything
        rules = Rules(rules.anchor, attention.halo, attention.correction, attention.stride)
    if keep is not None:
        rules = rules._replace(slots=Slots(keep, block, rules.anchor, devices))
    return Sizes(block, rules, waves, room(waves, block), devices * block)


def room(waves: int, block: int) -> int:
    """How many keys each device has room for."""
    return -(-eighths(waves) * block // ROUND) * ROUND


def _encode(model: Decoder, rows: list[list[int]], attention: Star, runtime: Runtime) -> Steps:
    mesh, devices = runtime.mesh, runtime.mesh.shape[CONTEXT]
    runtime = runtime.keeping(one_part(runtime.layer_cache))
    new = sizes(attention, max(map(len, rows)), devices, runtime.keep)
    tokens, starts, *filled = next(_inputs(rows, new, runtime, first=0))
    kept, before = wave_lib.programs(runtime, new.rules)[0](model, tokens, starts, *filled)
    if (rooms := new.rooms(runtime)) != (of := new.wave_keys(runtime)):
        # One name for the wave and the cache: the first wave's arrays go when they are copied.
        kept = resize(kept, rooms, of=of, wave=of, mesh=mesh)
    yield Step.to(new.span, rows, kept)
    shared, slots = [], new.rules.slots
    if slots is not None and slots.shared:
        shared = [parts(runtime, slots)(before.anchors)]
    kept = yield from _later_waves(model, rows, new, kept, before, 1, runtime)
    return dealt_blocks(rows, new, kept, runtime, *shared)


def _later_waves(
    model: Decoder,
    rows: list[list[int]],
    new: Sizes,
    kept: Kept,
    before: wave_lib.Before,
    first: int,
    runtime: Runtime,
) -> Generator[Step, None, Kept]:
    """Encodes waves from `first` on, and writes them into the cache, which is donated."""
    later = wave_lib.programs(runtime, new.rules)[1]
    inputs = enumerate(_inputs(rows, new, runtime, first=first), start=first)
    for w, (tokens, starts, *filled) in inputs:
        if new.rules.correction is not None:
            valid = np.full(starts.shape, w * new.block, np.int32)
            before = before._replace(cache=Cache(kept, runtime.put(valid, mesh_lib.BLOCKS)))
        wave, tails = later(model, tokens, starts, before, *filled)
        before = before._replace(tails=tails, cache=None)
        kept = write(kept, wave, w, mesh=runtime.mesh)
        yield Step.to((w + 1) * new.span, rows, kept)
    return kept


def _inputs(
    rows: list[list[int]], new: Sizes, runtime: Runtime, *, first: int
) -> Iterator[tuple[Any, ...]]:
    """Tokens [B, C*b] and starts of blocks [B, C] of the waves from `first` on, on the mesh.

    Where some keys are kept only, also `Filled`: [B, C] each.
    """
    tokens, devices = pad(rows, new.waves * new.span), new.span // new.block
    starts = np.broadcast_to(np.arange(devices, dtype=np.int32) * new.block, (len(rows), devices))
    put = functools.partial(runtime.put, spec=mesh_lib.BLOCKS)
    for at in range(first * new.span, new.waves * new.span, new.span):
        inputs = put(tokens[:, at : at + new.span]), put(starts + np.int32(at))
        if (slots := new.rules.slots) is None:
            yield inputs
        else:
            filled = slots.filled(range(at, at + new.span, new.block), list(map(len, rows)))
            yield *inputs, Filled(*map(put, filled))


def dealt_blocks(
    rows: list[list[int]], new: Sizes, kept: Kept, runtime: Runtime, *shared: Kept
) -> tuple[Cache, Shards]:
    """What the devices keep of contexts whose blocks went to them in turn, and how they lie.

    shared: what they keep of the anchor beside, if there is any of it.
    """
    shards, lengths = blocks(new), [len(row) for row in rows]
    if new.rules.slots is not None:
        shards = KeptShards(shards.starts, shards.size, new.rules.slots, tuple(lengths))
        for first in shared:
            kept = together(kept, first, new.rules.slots, runtime)
    return dealt(kept, shards, lengths, runtime), shards


def blocks(new: Sizes) -> Shards:
    """Blocks go to the devices in turn."""
    devices, end = new.span // new.block, new.waves * new.span
    starts = tuple(tuple(range(c * new.block, end, new.span)) for c in range(devices))
    return Shards(starts, size=new.block)
