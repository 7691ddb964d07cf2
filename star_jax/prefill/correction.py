"""What blocks lose, and how it is won back from a few rows of each that are attended exactly.

All rows of a block miss the same *far* keys: those before the block that are neither in the
anchor nor in the halo. Every stride-th row of a block, counted from its start, is attended to
them, wherever they lie: the rows go to all devices, and each sends back the partial over its
own keys. What a row r finds there mends the rows from r on.

delta: what row r gains, its exact output less the other one, is added to it and to the rows
  that follow, up to the next such row.

tangent: the far keys become one summary key. As a function of the query, their log-sum-exp is
  convex. Row r finds its value lse_r at q_r, and its slope there, which is the keys' mean k_r with
  the weights of row r. So the tangent at q_r is known:

      lse_r + scale * (q - q_r) . k_r        never above the log-sum-exp, and equal to it at q_r

  A row takes, of the rows r up to its own, the one whose tangent is highest at its query: the
  best of these lower bounds. The values' mean v_r, with that number as its log-sum-exp, is a
  partial over the far keys, and is merged as one. The result is an average of values.

both: the mean of what these two give. Delta keeps what the row found, and forgets that queries
  differ; the tangent follows the query, and finds too little. Their errors are not alike.

Sources: delta is Willette et al., "Delta Attention", arXiv 2505.11254, with rows counted per
block; the tangent is ours.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from star_jax.array_typing import Array, Bool, Float, PerRow, Queries
from star_jax.attention import Partial, Segment, merge
from star_jax.attention.partial import merge_stacked
from star_jax.cache.layer import LayerCache
from star_jax.models.decoder import precision
from star_jax.prefill.keeping import Slots
from star_jax.runtime.mesh import CONTEXT
from star_jax.runtime.runtime import Attention

CORRECTIONS = ("delta", "tangent", "both")
WITH_KEYS = ("tangent", "both")  # those that average keys beside values

ROWS = 512  # of a block that choose their tangents at a time

Sent = Float[Array, "C B R N H"]  # here, R rows of the block of each device


class Rules(NamedTuple):
    """What a block sees, as `star.Star` says it, and what is kept of it: None, all of it.

    Programs are compiled for each.
    """

    anchor: int
    halo: int = 0
    correction: str | None = None
    stride: int = 64
    slots: Slots | None = None


class Earlier(NamedTuple):
    """One layer's keys of earlier waves, on this device."""

    layer: LayerCache
    valid: PerRow
    tail: Segment | None  # the first device holds the halo of its block here, as in `waves.Before`


def send_rows(q: Queries, stride: int) -> Sent:
    """Every stride-th row of each device's block, on all devices; one collective."""
    rows = q[:, ::stride]
    if jax.lax.axis_size(CONTEXT) == 1:
        return rows[None]
    return jax.lax.all_gather(rows, CONTEXT)  # [B, R, N, H] -> [C, B, R, N, H]


def far(
    rows: Sent,
    own: Segment,
    starts: PerRow,
    rules: Rules,
    earlier: Earlier | None,
    attend: Attention,
) -> Partial:
    """The partial of all rows over the far keys on this device: [B, C * R, N, ...].

    own: the keys of this device's block, which begins at `starts`. attend: averages keys beside
    values if the correction wants them; `out` is [B, C * R, N, 2H] then.
    """
    devices, batch, count, heads, width = rows.shape
    flat = rows.transpose(1, 0, 2, 3, 4).reshape(batch, devices * count, heads, width)
    of_device = jnp.arange(devices * count) // count  # whose block each row is of
    parts = []
    if devices > 1:
        # No own key is before the block of the first device.
        later = flat[:, count:], of_device[count:]
        part = _in_this_wave(*later, own, starts, rules, attend)
        parts.append(_after_none(part, count))
    if earlier is not None:
        parts.append(_in_earlier_waves(flat, of_device, earlier, rules, attend))
    return merge(*parts) if parts else attend(flat, [])  # of one device's first block


def send_back(part: Partial) -> Float[Array, "C B R N W"]:
    """Sends each device the partials of its own rows, from what `far` gives; one collective.

    They are packed: the LSE comes after the output.
    """
    packed = jnp.concatenate([part.out, part.lse[..., None]], axis=-1)
    devices = jax.lax.axis_size(CONTEXT)
    packed = packed.reshape(packed.shape[0], devices, -1, *packed.shape[2:])
    if devices == 1:
        return packed[None, :, 0]
    # [B, C, R, N, W], to each device its rows -> [C, B, R, N, W], from each device
    return jax.lax.all_to_all(packed, CONTEXT, split_axis=1, concat_axis=0)


def merge_packed(packed: Float[Array, "C B R N W"]) -> Partial:
    """The partials from all devices, merged."""
    return merge_stacked(Partial(packed[..., :-1], packed[..., -1]))


def _in_this_wave(
    rows: Queries,
    of_device: Array,
    own: Segment,
    starts: PerRow,
    rules: Rules,
    attend: Attention,
) -> Partial:
    """Rows of later devices over this device's block."""
    here, cut = jax.lax.axis_index(CONTEXT), own.keys - rules.halo
    # What the rows have seen as the anchor.
    begin = jnp.where(starts == 0, rules.anchor, 0)
    parts = []
    if cut:
        most = Segment(own.k, own.v, length=jnp.full_like(starts, cut), begin=begin)
        parts.append(_only(attend(rows, [most]), of_device > here))
    if rules.halo:
        # The halo of the next device's block.
        begin = jnp.maximum(begin - cut, 0)
        tail = Segment(own.k[:, cut:], own.v[:, cut:], begin=begin)
        parts.append(_only(attend(rows, [tail]), of_device > here + 1))
    return merge(*parts)


def _in_earlier_waves(
    rows: Queries,
    of_device: Array,
    earlier: Earlier,
    rules: Rules,
    attend: Attention,
) -> Partial:
    """All rows over what this device has encoded before."""
    here, devices = jax.lax.axis_index(CONTEXT), jax.lax.axis_size(CONTEXT)
    valid = earlier.valid - jnp.where(here == devices - 1, rules.halo, 0)
    begin = jnp.full_like(valid, jnp.where(here == 0, rules.anchor, 0))

    def beyond_anchor(q: Queries, segments: list[Segment]) -> Partial:
        (segment,) = segments
        return attend(q, [dataclasses.replace(segment, begin=begin)])

    part = earlier.layer.attend(rows, valid, beyond_anchor)
    if earlier.tail is None or devices == 1:
        return part
    # The halo of the first device's block, which the other blocks have not seen.
    count = rows.shape[1] // devices
    tail = attend(rows[:, count:], [earlier.tail])
    tail = _only(tail, jnp.broadcast_to(here == 0, of_device[count:].shape))
    return merge(part, _after_none(tail, count))


def _only(part: Partial, rows: Bool[Array, "T"]) -> Partial:
    """The partial of these rows; the others have seen no key."""
    return Partial(part.out, jnp.where(rows[:, None], part.lse, -jnp.inf))


def _after_none(part: Partial, count: int) -> Partial:
    """The partial, after `count` rows that have seen no key."""
    lse = jnp.pad(part.lse, ((0, 0), (count, 0), (0, 0)), constant_values=-jnp.inf)
    return Partial(jnp.pad(part.out, ((0, 0), (count, 0), (0, 0), (0, 0))), lse)


def corrected(q: Queries, part: Partial, far: Partial, scale: float, rules: Rules) -> Queries:
    """A block's outputs, from those over what it sees and its rows' partials over the rest."""
    values = far._replace(out=far.out[..., : part.out.shape[-1]])
    if rules.correction == "delta":
        return _delta(part, values, rules.stride)
    tangent = _tangent(q, part, far, scale, rules.stride)
    if rules.correction == "tangent":
        return tangent
    return (_delta(part, values, rules.stride) + tangent) / 2


def _delta(part: Partial, far: Partial, stride: int) -> Queries:
    sparse = Partial(part.out[:, ::stride], part.lse[:, ::stride])
    gain = merge(sparse, far).out - sparse.out
    return part.out + jnp.repeat(gain, stride, axis=1)[:, : part.out.shape[1]]


def _tangent(q: Queries, part: Partial, far: Partial, scale: float, stride: int) -> Queries:
    value, key = jnp.split(far.out, 2, axis=-1)  # [B, R, N, H] each
    key = key.astype(q.dtype)
    height = functools.partial(
        jnp.einsum, precision=precision(q.dtype), preferred_element_type=jnp.float32
    )
    # Of the same products as below, so that a tangent is exact at its own row.
    bias = far.lse - scale * height("brnh,brnh->brn", q[:, ::stride], key)
    bias = bias.transpose(0, 2, 1)[:, None]  # [B, 1, N, R]

    def mend(first: Array | int, out: Queries, size: int) -> Queries:
        def some(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, size, axis=1)

        row = first + jnp.arange(size)[:, None]
        ahead = stride * jnp.arange(key.shape[1]) > row  # [T, R]
        tangents = scale * height("btnh,brnh->btnr", some(q), key) + bias
        tangents = jnp.where(ahead[:, None], -jnp.inf, tangents)
        best = jnp.argmax(tangents, axis=-1)[..., None]  # [B, T, N, 1]
        summary = Partial(jnp.take_along_axis(value, best, axis=1), tangents.max(axis=-1))
        mended = merge(Partial(some(out), some(part.lse)), summary).out
        return jax.lax.dynamic_update_slice_in_dim(out, mended, first, axis=1)

    # A few rows at a time: the tangents of all would take rows * R numbers for each head.
    out, (count, rest) = part.out, divmod(q.shape[1], ROWS)
    if count:
        out = jax.lax.fori_loop(0, count, lambda i, out: mend(i * ROWS, out, ROWS), out)
    return mend(count * ROWS, out, rest) if rest else out
