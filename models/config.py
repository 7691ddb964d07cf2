"""The configuration of a decoder of any family."""

import dataclasses
import functools

from star_jax.models.layer import LayerSpec
from star_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder computes, by the checkpoint. `family` is its `model_type`; see `Family`.

    qk_norm: queries and keys are normalised before RoPE, head by head.
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
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...]

    @functools.cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """What attention must know of each layer."""
        spec = LayerSpec(index=0, scale=self.head_dim**-0.5, rope=self.rope)
        return tuple(dataclasses.replace(spec, index=i) for i in range(self.num_layers))
