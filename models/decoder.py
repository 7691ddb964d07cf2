"""The decoder that families share: weights, and a forward that is handed attention.

Weights keep Hugging Face's layout [out, in], with heads split out by a reshape, so that
a checkpoint's bytes go to the devices as they are. Letters: see `star_jax.array_typing`.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from star_jax.array_typing import Array, Hidden, Keys, Logits, Positions, Queries, Tokens, Values
from star_jax.models import rope
from star_jax.models.config import DecoderConfig
from star_jax.models.layer import LayerSpec

State = TypeVar("State")

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


@runtime_checkable
class WeightMaker(Protocol):
    """Makes one weight, from its name, its shape, and the logical name of each axis.

    A loader reads it from a file, a test draws it at random, an abstract one returns a
    `ShapeDtypeStruct`, and `star_jax.placement` returns its `PartitionSpec`.
    """

    def __call__(self, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Any: ...


@runtime_checkable
class Attend(Protocol[State]):
    """How attention is done. `state` (cache, anchor, tail) is threaded, never hidden.

    `start` receives a layer's keys and values before its queries are projected, so that
    sending them somewhere has something to hide behind (unless it `SendsQueries`). Keys and
    queries come after RoPE.
    """

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: State) -> State: ...

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: State
    ) -> tuple[Queries, State]: ...


@runtime_checkable
class SendsQueries(Protocol[State]):
    """An `Attend` that also sends queries somewhere: they are projected first.

    It does so in layers that see everything; a layer with a window is started as any other.
    The projection of keys and values then hides what `send_queries` sends.
    """

    def send_queries(self, spec: LayerSpec, q: Queries, state: State) -> State: ...


@runtime_checkable
class FeedForward(Protocol):
    """What a layer does with each token by itself. Devices of the `axis` share the work."""

    def __call__(self, x: Hidden, axis: str | None) -> Hidden: ...


class Attention(nnx.Module):
    def __init__(self, config: DecoderConfig, prefix: str, make: WeightMaker):
        D, N, K, H = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        self.q_weight = nnx.Param(
            make(f"{prefix}.q_proj.weight", (N, H, D), ("heads", "head", "embed"))
        )
        self.k_weight = nnx.Param(
            make(f"{prefix}.k_proj.weight", (K, H, D), ("kv_heads", "head", "embed"))
        )
        self.v_weight = nnx.Param(
            make(f"{prefix}.v_proj.weight", (K, H, D), ("kv_heads", "head", "embed"))
        )
        self.o_weight = nnx.Param(
            make(f"{prefix}.o_proj.weight", (D, N, H), ("embed", "heads", "head"))
        )
        bias = _weight_if(config.qkv_bias, make)
        self.q_bias = bias(f"{prefix}.q_proj.bias", (N, H), ("heads", "head"))
        self.k_bias = bias(f"{prefix}.k_proj.bias", (K, H), ("kv_heads", "head"))
        self.v_bias = bias(f"{prefix}.v_proj.bias", (K, H), ("kv_heads", "head"))
        self.o_bias = _weight_if(config.o_bias, make)(f"{prefix}.o_proj.bias", (D,), ("embed",))
        norm = _weight_if(config.qk_norm, make)
        if config.qk_norm_over_heads:
            self.q_norm = norm(f"{prefix}.q_norm.weight", (N, H), ("heads", "head"))
            self.k_norm = norm(f"{prefix}.k_norm.weight", (K, H), ("kv_heads", "head"))
        else:
            self.q_norm = norm(f"{prefix}.q_norm.weight", (H,), ("norm",))
            self.k_norm = norm(f"{prefix}.k_norm.weight", (H,), ("norm",))
        self.norm = config.norm

    def project_q(self, x: Hidden, axis: str | None) -> Queries:
        q = _linear("btd,nhd->btnh", x, self.q_weight, self.q_bias)
        return self.norm(q, self.q_norm, axis=axis)

    def project_kv(self, x: Hidden, axis: str | None) -> tuple[Keys, Values]:
        k = _linear("btd,khd->btkh", x, self.k_weight, self.k_bias)
        v = _linear("btd,khd->btkh", x, self.v_weight, self.v_bias)
        return self.norm(k, self.k_norm, axis=axis), v

    def project_out(self, out: Queries, axis: str | None) -> Hidden:
        return _linear("btnh,dnh->btd", out, self.o_weight, self.o_bias, sum_over=axis)


class MLP(nnx.Module):
    def __init__(self, config: DecoderConfig, prefix: str, make: WeightMaker):
        D, F = config.hidden_size, config.intermediate_size
        self.gate_weight = nnx.Param(make(f"{prefix}.gate_proj.weight", (F, D), ("mlp", "embed")))
        self.up_weight = nnx.Param(make(f"{prefix}.up_proj.weight", (F, D), ("mlp", "embed")))
        self.down_weight = nnx.Param(make(f"{prefix}.down_proj.weight", (D, F), ("embed", "mlp")))
        self.activation = config.activation
        bias = _weight_if(config.mlp_bias, make)
        self.gate_bias = bias(f"{prefix}.gate_proj.bias", (F,), ("mlp",))
        self.up_bias = bias(f"{prefix}.up_proj.bias", (F,), ("mlp",))
        self.down_bias = bias(f"{prefix}.down_proj.bias", (D,), ("embed",))

    def __call__(self, x: Hidden, axis: str | None) -> Hidden:
        gate = _linear("btd,fd->btf", x, self.gate_weight, self.gate_bias)
        up = _linear("btd,fd->btf", x, self.up_weight, self.up_bias)
        y = _ACTIVATIONS[self.activation](gate) * up
        return _linear("btf,df->btd", y, self.down_weight, self.down_bias, sum_over=axis)


class Layer(nnx.Module):
    def __init__(
        self,
        config: DecoderConfig,
        index: int,
        make: WeightMaker,
        feed_forward: Callable[[int, WeightMaker], FeedForward],
    ):
        D, prefix = config.hidden_size, f"model.layers.{index}"
        self.norm = config.norm
        self.residual_multiplier = config.residual_multiplier
        before, after = _weight_if(config.norm_before, make), _weight_if(config.norm_after, make)

        def norm(where: Callable[..., nnx.Param | None], name: str) -> nnx.Param | None:
            return where(f"{prefix}.{name}_layernorm.weight", (D,), ("embed",))

        self.attention_norm = norm(before, "input")
        self.attention = Attention(config, f"{prefix}.self_attn", make)
        self.after_attention_norm = norm(after, "after_attention")
        self.mlp_norm = norm(before, "post_attention")  # the name is Llama's
        self.mlp: Any = feed_forward(index, make)  # which weights it has depends on its kind
        self.after_mlp_norm = norm(after, "after_mlp")


class Decoder(nnx.Module):
    """A decoder. The instance is a pytree of its weights: pass it through `jax.jit`.

    Inside `shard_map`, `axis` names the mesh axis over which heads, feed-forward units and (if
    it divides) the vocabulary are sharded. Two sums over it per layer, one for the embedding; two
    small ones per layer more where queries and keys are normalised over all heads at once.
    """

    def __init__(self, config: DecoderConfig, make: WeightMaker):
        D, V = config.hidden_size, config.vocab_size
        self.config = config
        self.embedding = nnx.Param(make("model.embed_tokens.weight", (V, D), ("vocab", "embed")))
        self.layers = nnx.List(
            [Layer(config, i, make, self.feed_forward) for i in range(config.num_layers)]
        )
        self.norm = nnx.Param(make("model.norm.weight", (D,), ("embed",)))
        tied = config.tie_word_embeddings
        self.head = None if tied else nnx.Param(make("lm_head.weight", (V, D), ("vocab", "embed")))

    def feed_forward(self, index: int, make: WeightMaker) -> FeedForward:
        """A layer's feed-forward; other decoders may have another."""
        return MLP(self.config, f"model.layers.{index}.mlp", make)

    def run(
        self,
        tokens: Tokens,
        positions: Positions,
        attend: Attend[State],
        state: State,
        *,
        axis: str | None = None,
        gather: Callable[[Layer], Layer] | None = None,
    ) -> tuple[Hidden, State]:
        """Runs all layers; returns what the LM head reads, and the state that `attend` threaded.

        `gather` makes a layer's weights whole just before they are used, if at rest they are not.
        """
        ropes = {spec.rope for spec in self.config.layers if spec.rope is not None}
        rotations = {
            one: rope.rotation(positions, one, self.config.head_dim)
            for one in sorted(ropes, key=repr)
        }
        x = _times(self.config.embedding_multiplier, self._embed(tokens, axis))
        for spec, layer in zip(self.config.layers, self.layers, strict=True):
            if gather is not None:
                with jax.named_scope(f"layer_{spec.index}"):
                    layer = gather(layer)
            turn = None if spec.rope is None else rotations[spec.rope]
            x, state = _layer(layer, spec, x, turn, attend, state, axis)
        return self.config.norm(x, self.norm), state

    def logits(self, hidden: Hidden, *, axis: str | None = None) -> Logits:
        """Next-token logits in float32, of the whole vocabulary on every device."""
        weight = (self.embedding if self.head is None else self.head)[...]
        logits = jnp.einsum(
            "btd,vd->btv",
            hidden,
            weight,
            precision=precision(hidden.dtype),
            preferred_element_type=jnp.float32,
        )
        logits = _times(1 / self.config.logits_divisor, logits)
        if (cap := self.config.logits_soft_cap) is not None:
            logits = cap * jnp.tanh(logits / cap)
        if axis is None or weight.shape[0] == self.config.vocab_size:
            return logits
        # [B, T, V / ranks] -> [B, T, V]
        return jax.lax.all_gather(logits, axis, axis=2, tiled=True)

    def _embed(self, tokens: Tokens, axis: str | None) -> Hidden:
        weight = self.embedding[...]
        if axis is None or weight.shape[0] == self.config.vocab_size:
            return weight[tokens]
        local = tokens - jax.lax.axis_index(axis) * weight.shape[0]
        here = (local >= 0) & (local < weight.shape[0])
        x = jnp.where(here[..., None], weight[jnp.where(here, local, 0)], 0)
        return jax.lax.psum(x, axis)  # [B, T, D]; exact: all but one add zeros


def _layer(
    layer: Layer,
    spec: LayerSpec,
    x: Hidden,
    rotation: rope.Rotation | None,
    attend: Attend[State],
    state: State,
    axis: str | None,
) -> tuple[Hidden, State]:
    with jax.named_scope(f"layer_{spec.index}"):
        y = layer.norm(x, layer.attention_norm)
        q = None
        if isinstance(attend, SendsQueries) and spec.window is None:
            q = rope.apply(layer.attention.project_q(y, axis), rotation)
            state = attend.send_queries(spec, q, state)
        k, v = layer.attention.project_kv(y, axis)
        k = rope.apply(k, rotation)
        state = attend.start(spec, k, v, state)
        if q is None:
            q = rope.apply(layer.attention.project_q(y, axis), rotation)
        out, state = attend(spec, q, k, v, state)
        y = layer.attention.project_out(out.astype(x.dtype), axis)
        y = layer.norm(y, layer.after_attention_norm)
        x = x + _times(layer.residual_multiplier, y)
        y = layer.mlp(layer.norm(x, layer.mlp_norm), axis)
        y = layer.norm(y, layer.after_mlp_norm)
        x = x + _times(layer.residual_multiplier, y)
    return x, state


def precision(dtype: Any) -> jax.lax.Precision:
    """Full precision for float32 (GPUs would use TF32), the hardware's own for the rest."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def _times(multiplier: float, x: Array) -> Array:
    return x if multiplier == 1.0 else multiplier * x


def _weight_if(present: bool, make: WeightMaker) -> Callable[..., nnx.Param | None]:
    return lambda *args: nnx.Param(make(*args)) if present else None


def _linear(
    spec: str,
    x: Array,
    weight: nnx.Param,
    bias: nnx.Param | None,
    *,
    sum_over: str | None = None,
) -> Array:
    y = jnp.einsum(spec, x, weight[...], precision=precision(x.dtype))
    if sum_over is not None and jax.lax.axis_size(sum_over) > 1:
        y = jax.lax.psum(y, sum_over)  # [B, T, D]; each device had its heads or units
    return y if bias is None else y + bias[...]
