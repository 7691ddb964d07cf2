"""What is asked of attention: shapes, the work in them, and random inputs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array
from star_jax.attention import Segment

Kind = Literal["causal", "full", "anchor+local", "decode"]
PREFILL: tuple[Kind, ...] = ("causal", "full", "anchor+local")
HEADS = {"8B": (32, 8), "70B": (64, 8)}  # query heads and key heads of Llama
DTYPE = "bfloat16"

# A call must not find its inputs in the cache that the one before has left: an H200's second
# level holds 50 to 60 MB. So calls rotate among sets of inputs that together exceed this.
ROTATED_BYTES = 256 * 2**20
MOST_SETS = 8

Arrays = dict[str, Any]  # what segments are made of, and q: see `Problem.segments`


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of attention, batch 1.

    causal: every query sees the keys up to its own. full: all keys. anchor+local: all of an
    anchor of as many keys as there are local ones, and those causally, as in phase 1 of Star
    Attention. decode: one query, whose keys are counted by a length, as in phase 2.
    """

    kind: Kind
    model: str  # whose heads, of HEADS
    head_dim: int
    keys: int  # local ones

    @property
    def heads(self) -> int:
        return HEADS[self.model][0]

    @property
    def kv_heads(self) -> int:
        return HEADS[self.model][1]

    @property
    def queries(self) -> int:
        return 1 if self.kind == "decode" else self.keys

    @property
    def causal(self) -> bool:
        return self.kind in ("causal", "anchor+local")

    @property
    def anchor(self) -> int:
        return self.keys if self.kind == "anchor+local" else 0

    @property
    def pairs(self) -> int:
        """A query and a key that it sees make one; per head."""
        local = self.keys * (self.keys + 1) // 2 if self.causal else self.queries * self.keys
        return self.queries * self.anchor + local

    @property
    def flops(self) -> int:
        """Two matmuls, of queries with keys and of weights with values; no hidden pair counts."""
        return 4 * self.pairs * self.heads * self.head_dim

    @property
    def kv_bytes(self) -> int:
        """Keys and values, read once."""
        return 2 * 2 * (self.keys + self.anchor) * self.kv_heads * self.head_dim

    @property
    def sets(self) -> int:
        """How many inputs there are, among which calls rotate: at least two."""
        bytes_ = self.kv_bytes + 2 * self.queries * self.heads * self.head_dim
        return min(max(-(-ROTATED_BYTES // bytes_), 2), MOST_SETS)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that are drawn."""
        keys = (1, self.keys, self.kv_heads, self.head_dim)
        queries = (1, self.queries, self.heads, self.head_dim)
        shapes: dict[str, tuple[int, ...]] = {"q": queries, "k": keys, "v": keys}
        if self.anchor:
            anchor = (1, self.anchor, self.kv_heads, self.head_dim)
            shapes |= {"anchor_k": anchor, "anchor_v": anchor}
        return shapes

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return self.head_dim**-0.5

    def segments(self, arrays: Arrays, *, offset: Array | None = None) -> list[Segment]:
        """The keys of all arrays; `offset` is of the queries, where they are not all of them."""
        own = Segment(arrays["k"], arrays["v"], arrays.get("length"), self.causal, offset)
        if not self.anchor:
            return [own]
        return [Segment(arrays["anchor_k"], arrays["anchor_v"]), own]

    def __str__(self) -> str:
        return f"{self.kind} {self.model} d={self.head_dim} {self.keys}"


def problems(
    lengths: Sequence[int],
    keys: Sequence[int],
    head_dims: Sequence[int],
    models: Sequence[str] = tuple(HEADS),
) -> list[Problem]:
    """All of them, small ones first: what is wrong shows soon."""
    prefill = [
        Problem(kind, model, head_dim, length)
        for length in sorted(lengths)
        for model in models
        for head_dim in head_dims
        for kind in PREFILL
    ]
    decode = [
        Problem("decode", model, head_dim, count)
        for count in sorted(keys)
        for model in models
        for head_dim in head_dims
    ]
    return prefill + decode


def abstract(problem: Problem, sharding: Any = None) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """The sets of inputs as shapes, on a device if `sharding` says one."""
    one = {
        name: jax.ShapeDtypeStruct(shape, DTYPE, sharding=sharding)
        for name, shape in problem.shapes().items()
    }
    if problem.kind == "decode":
        one["length"] = jax.ShapeDtypeStruct((1,), "int32", sharding=sharding)
    return [one] * problem.sets


def draw(problem: Problem, seed: int) -> list[Arrays]:
    """The sets of inputs, normal: zeros run faster than what models compute with."""
    key = jax.random.key(seed)
    sets = []
    for _ in range(problem.sets):
        arrays: Arrays = {}
        for name, shape in problem.shapes().items():
            key, mine = jax.random.split(key)
            arrays[name] = _normal(mine, shape)
        if problem.kind == "decode":
            arrays["length"] = jnp.full(1, problem.keys, jnp.int32)
        sets.append(arrays)
    return jax.block_until_ready(sets)


@functools.partial(jax.jit, static_argnums=1)
def _normal(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(key, shape, DTYPE)
