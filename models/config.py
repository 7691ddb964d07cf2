"""The configuration of a decoder of any family."""

import dataclasses
import functools

from star_jax.models.layer import LayerSpec, reach
from star_jax.models.norm import Norm
from star_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """A feed-forward of many experts, of which a router chooses a few for each token.

    intermediate_size: of each expert. renormalized: whether what a token's experts count adds up
      to 1. dense_layers: layers that have an MLP in its place.
    """

    count: int
    per_token: int
    intermediate_size: int
    renormalized: bool
    dense_layers: frozenset[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder computes, by the checkpoint. `family` is its `model_type`; see `Family`.

    norm_before, norm_after: what attention and the MLP read is normalised, and what they give.
      norm_plus_one, norm_in_float32: see `Norm`. activation: "silu" or "gelu_tanh", of the MLP.
    qk_norm: queries and keys are normalised before RoPE, head by head. qk_norm_over_heads: all
      heads at once instead.
    without_rope: layers that have no RoPE. local_rope: another one, of layers with windows.
    window: how many keys, its own among them, a token sees in the layers `windowed`; None if there
      are no such layers, or if it is as long as the longest sequence that the model is made for.
    attention_scale: what scores are multiplied by. Soft caps bend scores and logits, as `dispatch`
      says. Embeddings and what a layer adds to the residual have multipliers of their own.
    logits_divisor: what logits are divided by.
    experts: what layers have in the place of an MLP; None in a dense model.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    activation: str
    norm_before: bool
    norm_after: bool
    norm_plus_one: bool
    norm_in_float32: bool
    qk_norm: bool
    qk_norm_over_heads: bool
    without_rope: frozenset[int]
    local_rope: Rope | None
    window: int | None
    windowed: frozenset[int]
    attention_soft_cap: float | None
    logits_soft_cap: float | None
    attention_scale: float
    embedding_multiplier: float
    residual_multiplier: float
    logits_divisor: float
    experts: Experts | None
    eos_token_ids: tuple[int, ...]

    @property
    def norm(self) -> Norm:
        plus_one, in_float32 = self.norm_plus_one, self.norm_in_float32
        return Norm(eps=self.rms_norm_eps, plus_one=plus_one, in_float32=in_float32)

    @property
    def reach(self) -> int:
        """That of layers with windows."""
        return reach(self.window)

    @functools.cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """What attention must know of each layer."""
        return tuple(
            LayerSpec(
                index=i,
                scale=self.attention_scale,
                window=self.window if i in self.windowed else None,
                soft_cap=self.attention_soft_cap,
                rope=self._rope(i),
            )
            for i in range(self.num_layers)
        )

    def _rope(self, layer: int) -> Rope | None:
        if layer in self.without_rope:
            return None
        return self.local_rope if self.local_rope and layer in self.windowed else self.rope
