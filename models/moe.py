"""A mixture of experts in the place of an MLP: a router sends each token to a few of them.

Each device of the tensor axis holds whole experts. Tokens are whole on all of these devices, so
each computes what its own experts add to every token, and one sum over the axis completes it, as
that of an MLP.

`jax.lax.ragged_dot` would say the same, but for GPUs JAX 0.10.2 masks a copy of all tokens for
every expert, and copies the weights. For 4096 tokens and half of Qwen3-30B-A3B's experts that is
8.8 GB, and 64 times the work; for one token, all experts are read. What stands here is products
with the weights as they lie.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.array_typing import Array, Float, Hidden, Int
from star_jax.models.config import DecoderConfig, Experts
from star_jax.models.decoder import Decoder, FeedForward, WeightMaker, precision

_ROWS = 256  # tokens of each expert in one matmul: so many that reading its weights costs less
_TOKENS = 16384  # that are computed at a time: what experts return takes memory for each of them


class Routes(NamedTuple):
    """Which experts compute a token, and what each of them counts.

    Experts are numbered from the first that this device holds: what is not one of its own is
    below 0, or not below their number.
    """

    expert: Int[Array, "T X"]
    share: Float[Array, "T X"]


class MoE(nnx.Module):
    def __init__(self, config: DecoderConfig, experts: Experts, prefix: str, make: WeightMaker):
        E, F, D = experts.count, experts.intermediate_size, config.hidden_size
        self.experts = experts
        self.router_weight = nnx.Param(make(f"{prefix}.gate.weight", (E, D), ("router", "embed")))
        up, down = ("experts", "expert", "embed"), ("experts", "embed", "expert")
        prefix = f"{prefix}.experts"
        self.gate_weight = nnx.Param(make(f"{prefix}.gate_proj.weight", (E, F, D), up))
        self.up_weight = nnx.Param(make(f"{prefix}.up_proj.weight", (E, F, D), up))
        self.down_weight = nnx.Param(make(f"{prefix}.down_proj.weight", (E, D, F), down))

    def __call__(self, x: Hidden, axis: str | None) -> Hidden:
        tokens = x.reshape(-1, x.shape[-1])  # [B, T, D] -> [B T, D]
        parts = -(-len(tokens) // _TOKENS)
        if parts == 1:
            y = self._own(tokens, axis)
        else:
            padded = jnp.pad(tokens, ((0, -len(tokens) % parts), (0, 0)))
            each = padded.reshape(parts, -1, x.shape[-1])
            y = jax.lax.map(lambda part: self._own(part, axis), each)
            y = y.reshape(padded.shape)[: len(tokens)]
        if axis is not None and jax.lax.axis_size(axis) > 1:
            y = jax.lax.psum(y, axis)  # [B T, D]; each device had its experts
        return y.reshape(x.shape)

    def route(self, x: Float[Array, "T D"], axis: str | None) -> Routes:
        """In float32, over all experts, whichever device holds them."""
        weight = self.router_weight[...]
        logits = jnp.einsum(
            "td,ed->te", x, weight, precision=precision(x.dtype), preferred_element_type=jnp.float32
        )
        share, expert = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), self.experts.per_token)
        if self.experts.renormalized:
            share = share / share.sum(axis=-1, keepdims=True)
        if axis is not None:
            expert = expert - jax.lax.axis_index(axis) * self.gate_weight[...].shape[0]
        return Routes(expert, share)

    def _own(self, x: Float[Array, "T D"], axis: str | None) -> Float[Array, "T D"]:
        """What the experts of this device add to each token."""
        routes = self.route(x, axis)
        compute = _of_few if routes.expert.size <= self.gate_weight[...].shape[0] else _of_many
        return compute(self, x, routes)


def _of_few(moe: MoE, x: Float[Array, "T D"], routes: Routes) -> Float[Array, "T D"]:
    """Token by token, so that no more experts are read than tokens are sent to.

    On GPUs each product is one kernel, which reads the weights where they lie. Written as a
    matmul, XLA may choose one that wants the experts' weights copied side by side.
    """
    is_own = (routes.expert >= 0) & (routes.expert < moe.gate_weight[...].shape[0])
    expert = jnp.where(is_own, routes.expert, 0)

    def product(weight: nnx.Param, x: Float[Array, "T _ I"]) -> Float[Array, "T X O"]:
        weights = weight[...][expert].astype(jnp.float32)  # [T, X, O, I]
        return jnp.sum(weights * x[:, :, None].astype(jnp.float32), axis=-1)

    y = jax.nn.silu(product(moe.gate_weight, x[:, None])) * product(moe.up_weight, x[:, None])
    y = product(moe.down_weight, y.astype(x.dtype))  # [T, X, D]
    y = jnp.where(is_own[..., None], routes.share[..., None] * y, 0)
    return jnp.sum(y, axis=1).astype(x.dtype)


def _of_many(moe: MoE, x: Float[Array, "T D"], routes: Routes) -> Float[Array, "T D"]:
    """In rounds: in each, every expert computes the next `_ROWS` of the tokens sent to it.

    There are as many rounds as the busiest expert needs. A token goes to an expert at most once,
    so of no more tokens than that one round is enough.
    """
    E, (T, X) = moe.gate_weight[...].shape[0], routes.expert.shape
    rows = min(T, _ROWS)
    is_own = (routes.expert >= 0) & (routes.expert < E)
    expert = jnp.where(is_own, routes.expert, E).reshape(-1)
    order = jnp.argsort(expert)  # the routes to each expert, one after another
    first = jnp.searchsorted(expert[order], jnp.arange(E + 1), method="compare_all")
    begin, end = first[:-1, None], first[1:, None]  # [E, 1]
    spare = T * X + jnp.arange(E * rows).reshape(E, rows)  # no route has these numbers

    def round_(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, results = carry
        at = begin + number * rows + jnp.arange(rows)
        route = jnp.where(at < end, order.at[at].get(mode="clip"), spare)  # [E, rows]
        y = _mlps(moe, x.at[route // X].get(mode="clip"))
        return number + 1, results.at[route].set(y, mode="drop", unique_indices=True)

    carry = (jnp.int32(0), jnp.zeros((T * X, x.shape[1]), x.dtype))
    if T <= _ROWS:
        _, results = round_(carry)
    else:
        busiest = jnp.max(end - begin)
        _, results = jax.lax.while_loop(lambda c: c[0] * rows < busiest, round_, carry)
    results = results.reshape(T, X, -1)  # zeros where another device has the expert
    return jnp.einsum("txd,tx->td", results, routes.share).astype(x.dtype)


def _mlps(moe: MoE, x: Float[Array, "E T D"]) -> Float[Array, "E T D"]:
    """Every expert of this device, each for its own tokens."""

    def product(spec: str, x: Array, weight: nnx.Param) -> Array:
        return jnp.einsum(spec, x, weight[...], precision=precision(x.dtype))

    gate = product("etd,efd->etf", x, moe.gate_weight)
    y = jax.nn.silu(gate) * product("etd,efd->etf", x, moe.up_weight)
    return product("etf,edf->etd", y, moe.down_weight)


class SparseDecoder(Decoder):
    """A decoder of which all or some layers have experts."""

    def feed_forward(self, index: int, make: WeightMaker) -> FeedForward:
        experts = self.config.experts
        if experts is None or index in experts.dense_layers:
            return super().feed_forward(index, make)
        return MoE(self.config, experts, f"model.layers.{index}.mlp", make)
