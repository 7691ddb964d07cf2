"""Variations of halo and corrections: kinds of attention for a trial, with masks written out.

They are slow, run on one device, and hold all scores of a layer at once. Their work is counted as
if it were corrected in all layers, and without keys that are passed on.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from star_jax import Dense
from star_jax.array_typing import Array, Keys, Positions, Queries, Values
from star_jax.models import LayerSpec
from star_jax.runtime.runtime import Runtime


@dataclasses.dataclass(frozen=True)
class Variation(Dense):
    """Star with what is tried. Sizes in tokens; `anchor` None is a block.

    groups: into how many parts of like size the far keys are cut, each with a tangent of its own;
    0: each block is one. layers: which ones are corrected, from (first, last) parts; None: all.
    passed: keys that each block shows to all later ones, chosen by `by`. exact_layers: the first
    ones attend exactly.
    """

    is_exact: ClassVar[bool] = False  # of the work that is counted

    block: int = 128
    anchor: int | None = None
    halo: int = 0
    stride: int = 0
    correction: str = "tangent"  # or "delta", or "both"
    share: str = ""  # "alone": the far keys weigh as they do at the strided row before, in share
    # of what the row has seen; "most": that or the tangent, whichever is more; "mean": of both
    groups: int = 1
    layers: tuple[int, int] | None = None
    passed: int = 0
    by: str = "random"
    exact_layers: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        anchor = self.block if self.anchor is None else self.anchor
        return {"block_size": self.block, "anchor_size": anchor}

    @property
    def mending(self) -> dict[str, int | str]:
        found: dict[str, int | str] = {"halo": self.halo}
        if self.stride:
            found |= {"correction": self.correction, "stride": self.stride}
        return found

    def attend(self, positions: Positions, runtime: Runtime) -> "Tried":  # type: ignore[override]
        return Tried(self, len(runtime.config.layers))


@dataclasses.dataclass(frozen=True)
class Tried:
    """Attention of a whole context, on one device."""

    how: Variation
    num_layers: int

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: object) -> None:
        return None

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: object
    ) -> tuple[Queries, None]:
        how, length, group = self.how, q.shape[1], q.shape[2] // k.shape[2]
        token, key = np.arange(length)[:, None], np.arange(length)
        start = token // how.block * how.block
        anchor = how.block if how.anchor is None else how.anchor
        fixed = (key >= start - how.halo) | (key < anchor)
        seen: Array = jnp.broadcast_to(fixed, (k.shape[2], length, length))
        if how.passed:
            seen = seen | _passed(how, q[0], k[0], spec.scale)[:, None]
        if spec.index < how.exact_layers:
            seen = jnp.ones_like(seen)
        seen = jnp.repeat(seen, group, axis=0)
        keys, values = (jnp.repeat(x[0], group, axis=1).transpose(1, 0, 2) for x in (k, v))
        queries = q[0].transpose(1, 0, 2)  # [N, T, H]
        scores = spec.scale * jnp.einsum("nth,nsh->nts", queries, keys)
        lse, out = _over(scores, seen & (key <= token), values)
        if how.stride and self._corrects(spec.index):
            out = self._mend(queries, scores, ~seen & (key < start), keys, values, lse, out, spec)
        return out.transpose(1, 0, 2)[None].astype(q.dtype), None

    def _corrects(self, layer: int) -> bool:
        first, last = self.how.layers or (self.num_layers, 0)
        return layer < first or layer >= self.num_layers - last

    def _mend(
        self,
        q: Array,
        scores: Array,
        missed: Array,
        keys: Array,
        values: Array,
        lse: Array,
        out: Array,
        spec: LayerSpec,
    ) -> Array:
        how, length = self.how, q.shape[1]
        token = np.arange(length)
        rows = np.flatnonzero(token % how.block % how.stride == 0)
        before = (token[:, None] // how.block == rows // how.block) & (rows <= token[:, None])
        last = before.cumsum(axis=1).argmax(axis=1)  # the strided row before each row, or its own
        far_lse, far = _over(scores[:, rows], missed[:, rows], values)
        gain = _merged(out[:, rows], lse[:, rows], far, far_lse) - out[:, rows]
        delta = out + gain[:, last]
        if how.correction == "delta":
            return delta
        start = rows // how.block * how.block
        size = how.block if how.groups == 0 else np.maximum(-(-start // how.groups), 1)
        of_group = token[None] // np.broadcast_to(size, start.shape)[:, None]  # [R, S]
        for group in range(-(-length // how.block) if how.groups == 0 else how.groups):
            mask = missed[:, rows] & (of_group == group)
            far_lse, far = _over(scores[:, rows], mask, values)
            _, mean = _over(scores[:, rows], mask, keys)
            own = jnp.einsum("nrh,nrh->nr", q[:, rows], mean)
            slope = jnp.einsum("nth,nrh->ntr", q, mean)
            height = (far_lse - spec.scale * own)[:, None] + spec.scale * slope
            height = jnp.where(before, height, -jnp.inf)
            chosen = jnp.take_along_axis(far, height.argmax(axis=-1)[..., None], axis=1)
            top = height.max(axis=-1)
            if how.share:
                shared = lse + (far_lse - lse[:, rows])[:, last]
                if how.share == "alone":
                    top, chosen = shared, far[:, last]
                elif how.share == "most":
                    chosen = jnp.where((shared > top)[..., None], far[:, last], chosen)
                    top = jnp.maximum(top, shared)
                else:
                    top = jnp.logaddexp(top, shared) - jnp.log(2.0)
            out, lse = _merged(out, lse, chosen, top), jnp.logaddexp(lse, top)
        return (delta + out) / 2 if how.correction == "both" else out


def _passed(how: Variation, q: Array, k: Array, scale: float) -> Array:
    """Which keys later blocks see too, bool [K, S]: `passed` of each block."""
    length, heads = k.shape[:2]
    if how.by == "random":
        worth = jax.random.uniform(jax.random.key(0), (heads, length))
    elif how.by == "norm":
        worth = -jnp.linalg.norm(k, axis=-1).T
    else:
        by_block = _blocks(k, how.block)  # [blocks, block, K, H]
        if how.by == "keydiff":
            unit = by_block / jnp.linalg.norm(by_block, axis=-1, keepdims=True)
            worth = -jnp.einsum("cskh,ckh->cks", unit, unit.mean(axis=1))
        else:  # "last": what the block's last rows look at
            last = _blocks(q, how.block)[:, -32:]
            last = last.reshape(*last.shape[:2], heads, -1, last.shape[-1])
            scores = scale * jnp.einsum("ctkgh,cskh->ckgts", last, by_block)
            worth = jax.nn.softmax(scores, axis=-1).sum(axis=(2, 3))
        worth = worth.transpose(1, 0, 2).reshape(heads, -1)[:, :length]
    by_block = _blocks(worth.T, how.block)  # [blocks, block, K]
    least = jnp.sort(by_block, axis=1)[:, -how.passed][:, None]
    return (by_block >= least).reshape(-1, heads)[:length].T


def _blocks(x: Array, block: int) -> Array:
    x = jnp.pad(x, ((0, -x.shape[0] % block), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, block, *x.shape[1:])


def _over(scores: Array, mask: Array, values: Array) -> tuple[Array, Array]:
    hidden = jnp.where(mask, scores, -jnp.inf)
    lse = jax.nn.logsumexp(hidden, axis=-1)
    weights = jnp.exp(hidden - jnp.where(lse == -jnp.inf, 0, lse)[..., None])
    return lse, jnp.einsum("nts,nsh->nth", weights, values)


def _merged(a: Array, a_lse: Array, b: Array, b_lse: Array) -> Array:
    lse = jnp.logaddexp(a_lse, b_lse)
    return a * jnp.exp(a_lse - lse)[..., None] + b * jnp.exp(b_lse - lse)[..., None]


def variations(block: int, layers: int) -> dict[str, Variation]:
    """By name; "block" is plain star, as the table of accuracy wants it."""
    star = Variation(block=block)
    half = dataclasses.replace(star, halo=block // 2)
    tangent = dataclasses.replace(half, stride=32)
    third = layers // 3
    return {
        "block=b": star,
        "block=b halo=b/2": half,
        "block=b halo=b/2 delta32": dataclasses.replace(tangent, correction="delta"),
        "block=b halo=b/2 tangent32": tangent,
        "block=b halo=b/2 both32": dataclasses.replace(tangent, correction="both"),
        "block=b halo=b/2 tangent8": dataclasses.replace(tangent, stride=8),
        "block=b halo=b/2 tangent32 groups=2": dataclasses.replace(tangent, groups=2),
        "block=b halo=b/2 tangent32 groups=4": dataclasses.replace(tangent, groups=4),
        "block=b halo=b/2 tangent32 group a block": dataclasses.replace(tangent, groups=0),
        "block=b halo=b/2 tangent32 first third and last 3 layers": dataclasses.replace(
            tangent, layers=(third, 3)
        ),
        "block=b halo=b/2 tangent32 first two thirds": dataclasses.replace(
            tangent, layers=(2 * third, 0)
        ),
        "block=b halo=b/2 passing b/16 random": dataclasses.replace(half, passed=block // 16),
        "block=b halo=b/2 passing b/16 norm": dataclasses.replace(
            half, passed=block // 16, by="norm"
        ),
        "block=b halo=b/2 passing b/16 keydiff": dataclasses.replace(
            half, passed=block // 16, by="keydiff"
        ),
        "block=b halo=b/2 passing b/16 last rows": dataclasses.replace(
            half, passed=block // 16, by="last"
        ),
        "block=b halo=b/2 exact in the first sixth": dataclasses.replace(
            half, exact_layers=layers // 6
        ),
        "block=b halo=b/2 share32": dataclasses.replace(tangent, share="alone"),
        "block=b halo=b/2 share32 or tangent": dataclasses.replace(tangent, share="most"),
        "block=b halo=b/2 share32 and tangent": dataclasses.replace(tangent, share="mean"),
        "block=b anchor=b/4 halo=b": dataclasses.replace(star, anchor=block // 4, halo=block),
        "block=b anchor=b/4 halo=b tangent32": dataclasses.replace(
            tangent, anchor=block // 4, halo=block
        ),
    }
