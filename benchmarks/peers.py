"""`transformers`: the model that a benchmark times and checks ours against, on CPU in float32."""

import dataclasses
import inspect
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.llama import modeling_llama

# What the cache is called among the arguments and outputs; older releases have another name.
_CACHE = "past_key_values"
if _CACHE not in inspect.signature(modeling_llama.LlamaAttention.forward).parameters:
    _CACHE = "cache"

Ids = list[int]


def build(fields: dict[str, Any], *, seed: int = 0) -> transformers.LlamaForCausalLM:
    """A model with random weights in float32, the same for the same seed."""
    config = transformers.LlamaConfig.from_dict(dict(fields))
    config._attn_implementation = "sdpa"
    model = transformers.LlamaForCausalLM(config).float().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for name, weight in model.named_parameters():
            weight.normal_(generator=random)
            if "norm" in name:
                weight.mul_(0.1).add_(1)
            else:
                weight.mul_(weight.shape[-1] ** -0.5)
    return model


def save(model: transformers.LlamaForCausalLM, directory: pathlib.Path) -> None:
    """Writes a checkpoint that `Engine.from_pretrained` reads."""
    model.save_pretrained(directory)


@dataclasses.dataclass(frozen=True)
class Peer:
    """The model, doing what ours does: a context is encoded once, and then asked."""

    model: transformers.LlamaForCausalLM

    @torch.inference_mode()
    def prefill(self, ids: Ids) -> Any:
        """The cache of a context, under causal attention."""
        with _keys_alone_of_the_last_layer(self.model.model):
            return self._run(ids, 0, None)

    @torch.inference_mode()
    def star(self, ids: Ids, block: int) -> Any:
        """The cache of a context under Star Attention, with an anchor of one block.

        The literal algorithm but for this: the anchor's keys are those of the first block. They
        are the same wherever they are computed.
        """
        with _keys_alone_of_the_last_layer(self.model.model):
            whole = self._run(ids[:block], 0, None)
            anchor = [(layer.keys, layer.values) for layer in whole.layers]
            for start in range(block, len(ids), block):
                cache = transformers.DynamicCache(config=self.model.config)
                for i, (k, v) in enumerate(anchor):
                    cache.update(k, v, i)
                cache = self._run(ids[start : start + block], start, cache)
                for i, layer in enumerate(cache.layers):
                    whole.update(layer.keys[:, :, block:], layer.values[:, :, block:], i)
        return whole

    @torch.inference_mode()
    def score(self, cache: Any, start: int, ids: Ids) -> np.ndarray:
        """Logits [len(ids), V] of a query that starts at a position. It extends the cache."""
        hidden = self._run(ids, start, cache, hidden=True)
        return self.model.lm_head(hidden)[0].numpy()

    def _run(self, ids: Ids, start: int, cache: Any, *, hidden: bool = False) -> Any:
        tokens = torch.tensor([ids])
        positions = torch.arange(start, start + len(ids))[None]
        options = {} if cache is None else {_CACHE: cache}
        out = self.model.model(tokens, position_ids=positions, use_cache=True, **options)
        return out.last_hidden_state if hidden else getattr(out, _CACHE)


@contextmanager
def _keys_alone_of_the_last_layer(model: Any) -> Iterator[None]:
    """As we do: in phase 1, nothing reads more of the last layer than its keys and values."""
    last = model.layers[-1]
    model.layers[-1] = _KeysAlone(last)
    try:
        yield
    finally:
        model.layers[-1] = last


class _KeysAlone(torch.nn.Module):
    def __init__(self, layer: Any):
        super().__init__()
        self.layer: Any = layer

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **options: Any,
    ) -> torch.Tensor:
        attention = self.layer.self_attn
        x = self.layer.input_layernorm(hidden_states)
        shape = (*x.shape[:2], -1, attention.head_dim)
        k, v = (f(x).view(shape).transpose(1, 2) for f in (attention.k_proj, attention.v_proj))
        _, k = modeling_llama.apply_rotary_pos_emb(k[:, :0], k, *position_embeddings)
        options[_CACHE].update(k, v, attention.layer_idx)
        return hidden_states
