"""Small random models, and the literal algorithms that the engine must equal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from star_jax import models
from star_jax.attention import Segment, reference
from star_jax.models import Decoder, DecoderConfig

FIELDS = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": None,
    "bos_token_id": None,
}


def config(**fields) -> DecoderConfig:
    return models.from_dict({**FIELDS, **fields})


def model(seed: int = 0, dtype: str = "float32", **fields) -> Decoder:
    rng = np.random.default_rng(seed)

    def make(name, shape, axes):
        if "norm" in name:
            return jnp.asarray(1 + 0.1 * rng.normal(size=shape), dtype)
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]) * 1.5, dtype)

    return models.build(config(**fields), make)


def ids(length: int, seed: int = 0, vocab: int = 128) -> list[int]:
    return np.random.default_rng((seed, length)).integers(0, vocab, length).tolist()


@dataclasses.dataclass(frozen=True)
class Literal:
    """Attention of one sequence after keys that are there already, kept in the state."""

    before_k: tuple  # per layer, [1, S, K, H], all visible
    before_v: tuple

    def start(self, spec, k, v, state):
        return (*state, (k, v))

    def __call__(self, spec, q, k, v, state):
        if self.before_k:
            pairs = (self.before_k[spec.index], k), (self.before_v[spec.index], v)
            k, v = (jnp.concatenate(pair, axis=1) for pair in pairs)
        offset = jnp.full(q.shape[:1], k.shape[1] - q.shape[1])
        segments = [Segment(k, v, causal=True, offset=offset, window=spec.window)]
        part = reference.attend(q, segments, scale=spec.scale, soft_cap=spec.soft_cap)
        return part.out.astype(q.dtype), state


def forward(model: Decoder, tokens, positions, before=((), ())):
    """One unsharded forward: (logits [T, V], K per layer, V per layer)."""
    return _forward(model, np.asarray(tokens)[None], np.asarray(positions)[None], before)


@jax.jit
def _forward(model, tokens, positions, before):
    hidden, state = model.run(tokens, positions, Literal(*before), ())
    return model.logits(hidden)[0], tuple(k for k, _ in state), tuple(v for _, v in state)


def literal_star(model: Decoder, context: list[int], block: int, anchor: int):
    """Phase 1 as published: a forward of [anchor ; block] per block, keeping the block's K/V."""
    kept_k, kept_v = [], []
    for start in range(0, len(context), block):
        part = context[start : start + block]
        used = anchor if start else 0
        tokens = context[:used] + part
        positions = [*range(used), *range(start, start + len(part))]
        _, k, v = forward(model, tokens, positions)
        kept_k.append([x[:, used:] for x in k])
        kept_v.append([x[:, used:] for x in v])
    join = lambda parts: tuple(  # noqa: E731
        jnp.concatenate(layer, axis=1) for layer in zip(*parts, strict=True)
    )
    return join(kept_k), join(kept_v)


def literal_score(model: Decoder, context: list[int], query: list[int], block: int, anchor: int):
    """Phase 2 as it should be: the query sees every kept key. Returns (logits [Lq, V], K, V)."""
    k, v = literal_star(model, context, block, anchor)
    positions = range(len(context), len(context) + len(query))
    return forward(model, query, positions, (k, v))[0], k, v


def literal_generate(model, context, query, block, anchor, count, eos=()):
    """Greedy tokens by scoring again after every token; and the gap of the two best logits."""
    k, v = literal_star(model, context, block, anchor)
    tokens, gaps = list(query), []
    room = len(query) + count  # one length for every step: padding comes after what is read
    for _ in range(count):
        padded = tokens + [0] * (room - len(tokens))
        positions = range(len(context), len(context) + room)
        logits = forward(model, padded, positions, (k, v))[0][len(tokens) - 1]
        top = jax.lax.top_k(logits, 2)[0]
        gaps.append(float(top[0] - top[1]))
        tokens.append(int(jnp.argmax(logits)))
        if tokens[-1] in eos:
            break
    return tokens[len(query) :], gaps


def kept(engine, context, row: int = 0):
    """K and V of every layer in the order of the context, out of the engine's sharded cache."""
    group = next(group for group in context.groups if row in group.rows)
    cache, shards, length = group.cache, group.shards, len(context.tokens[row])
    row = group.rows.index(row)
    valid = np.asarray(cache.valid)[row]
    devices = len(valid)
    positions = np.split(shards.positions(), devices)

    def order(x):
        x = x[:, :, :: x.shape[2] // engine.config.num_kv_heads]  # heads may be repeated
        result = np.full((length, *x.shape[2:]), np.nan, np.float32)
        shards = np.split(np.asarray(x)[row], devices)  # each [S, K, H]
        for shard, count, at in zip(shards, valid, positions, strict=True):
            result[at[:count]] = shard[:count]
        return result[None]

    return [order(x.k) for x in cache.layers], [order(x.v) for x in cache.layers]


def difference(actual, expected) -> float:
    """max|a - e| / max(1, max|e|)."""
    actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    return float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))
