"""The needle model: its shape, its structured start, and its forward in training.

At the start the embedding says what is a key, a digit, a colon and a byte of a uuid; in layer
0 one head reads the most recent key, one the previous token, one a window of tokens and one the
last dozen bytes of uuids. In the later layers some heads copy digits from where queries and keys
stand after the same key; others copy the byte that came after the same bytes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from star_jax import models
from star_jax.array_typing import Array, Keys, Logits, Queries, Values
from star_jax.models import DecoderConfig, LayerSpec
from tools import needle_text
from tools.needle_text import token_id

Params = dict[str, Any]

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP = 3, 216, 6, 3, 64, 256
THETA = 1e8  # half of each head turns less than 0.2 rad in 2048 tokens: room to match content


def config_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": THETA,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "bos_token_id": token_id(tokenizer, needle_text.BOS),
        "eos_token_id": token_id(tokenizer, needle_text.EOS),
        "pad_token_id": token_id(tokenizer, needle_text.PAD),
        "torch_dtype": "float32",
        "use_cache": True,
    }


# Which dimensions of the residual stream hold what, at the start.
ID = slice(0, 24)  # which key this token is
WORD = slice(24, 56)  # which other token it is; of digits the first ten
TAG = slice(56, 80)  # the most recent key (written by layer 0)
CONST, KEY, DIGIT, FIRST, COLON, BYTE, STOP = range(80, 87)
MARK = slice(87, 90)  # what is in front of a byte
BEFORE = slice(90, 122)  # the previous token (written by layer 0)
WINDOW = slice(122, 130)  # what stands nearby (written by layer 0)
BYTES = slice(130, 162)  # the last bytes, all together (written by layer 0)
ANSWER = slice(162, 194)  # what was found (written by the later layers)
ANSWER_MARK = slice(194, 197)


def start(tokenizer: Tokenizer, rng: np.random.Generator) -> Params:
    """The weights before training, under their Hugging Face names."""
    vocab = tokenizer.get_vocab_size()
    params: dict[str, NDArray[Any]] = {
        "model.embed_tokens.weight": _embedding(tokenizer, rng),
        "lm_head.weight": rng.normal(0, 0.02, (vocab, WIDTH)),
        "model.norm.weight": np.ones(WIDTH),
    }
    params["lm_head.weight"][:, WORD] += 0.1 * params["model.embed_tokens.weight"][:, WORD]
    for d in range(10):
        for token in (f" {d}", str(d)):
            params["lm_head.weight"][token_id(tokenizer, token), ANSWER.start + d] += 2.5
    copied = [*_bytes(tokenizer).ravel(), token_id(tokenizer, ".")]
    content = _unit(params["model.embed_tokens.weight"][copied, WORD])
    params["lm_head.weight"][copied, ANSWER] += 2.5 * content
    for mark, ids in enumerate(_bytes(tokenizer)):
        params["lm_head.weight"][ids, ANSWER_MARK.start + mark] += 2.0
    for i in range(LAYERS):
        p = f"model.layers.{i}"
        q, k, v, o = _read_layer(rng) if i == 0 else _match_layer(rng)
        params |= {
            f"{p}.input_layernorm.weight": np.ones(WIDTH),
            f"{p}.post_attention_layernorm.weight": np.ones(WIDTH),
            f"{p}.self_attn.q_proj.weight": q.reshape(-1, WIDTH),
            f"{p}.self_attn.k_proj.weight": k.reshape(-1, WIDTH),
            f"{p}.self_attn.v_proj.weight": v.reshape(-1, WIDTH),
            f"{p}.self_attn.o_proj.weight": o.reshape(WIDTH, -1),
            f"{p}.mlp.gate_proj.weight": rng.normal(0, WIDTH**-0.5, (MLP, WIDTH)),
            f"{p}.mlp.up_proj.weight": rng.normal(0, WIDTH**-0.5, (MLP, WIDTH)),
            f"{p}.mlp.down_proj.weight": rng.normal(0, 0.008, (WIDTH, MLP)),
        }
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


def _embedding(tokenizer: Tokenizer, rng: np.random.Generator) -> NDArray[Any]:
    """Flags beside one content each: a key, a digit, or a random word; norms are equal.

    Equal norms keep CONST the same after normalisation, which the heads that read
    positions need.
    """
    vocab = tokenizer.get_vocab_size()
    flags, content = np.zeros((2, vocab, WIDTH))
    flags[:, CONST] = 1
    flags[token_id(tokenizer, ":"), COLON] = 1
    words = slice(WORD.start + 10, WORD.stop)
    content[:, words] = _unit(rng.normal(size=content[:, words].shape))
    keys = [token_id(tokenizer, " " + key) for key in needle_text.KEYS]
    flags[keys, KEY] = 1
    content[keys] = 0
    content[keys, ID] = _spread(rng, len(keys), ID.stop - ID.start)
    for d in range(10):
        first, other = token_id(tokenizer, f" {d}"), token_id(tokenizer, str(d))
        flags[first, FIRST] = 1
        flags[[first, other], DIGIT] = 1
        content[[first, other]] = 0
        content[[first, other], WORD.start + d] = 1
    pieces = _bytes(tokenizer)
    flags[pieces, BYTE] = 1
    flags[token_id(tokenizer, "."), STOP] = 1
    spread = _spread(rng, 256, WORD.stop - WORD.start)
    for mark, ids in enumerate(pieces):
        flags[ids, MARK.start + mark] = 0.5
        content[ids, WORD] = spread
    content *= np.sqrt(5 - (flags**2).sum(1, keepdims=True))
    return flags + content + rng.normal(0, 0.005, content.shape)


def _bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The ids [3, 256] of the bytes after each mark."""
    texts = [mark + byte for mark in needle_text.MARKS for byte in needle_text.BYTES]
    return np.asarray([token_id(tokenizer, text) for text in texts], np.int64).reshape(3, 256)


def _unit(x: NDArray[Any]) -> NDArray[Any]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _spread(rng: np.random.Generator, count: int, width: int) -> NDArray[Any]:
    """Unit vectors, each pushed away from its nearest."""
    x = rng.normal(size=(count, width))
    for _ in range(500):
        x = _unit(x)
        near = np.exp(20 * (x @ x.T)) * (1 - np.eye(count))
        x -= 0.1 * (near / near.sum(1, keepdims=True)) @ x
    return _unit(x)


def _noise(rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    shapes = ((HEADS, HEAD_DIM, WIDTH), (KV_HEADS, HEAD_DIM, WIDTH), (KV_HEADS, HEAD_DIM, WIDTH))
    q, k, v = (rng.normal(0, 0.01, shape) for shape in shapes)
    return q, k, v, rng.normal(0, 0.01, (WIDTH, HEADS, HEAD_DIM))


def _read_layer(rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    q, k, v, o = _noise(rng)
    k *= 0.1  # or the positions drown in the differences between words
    half = HEAD_DIM // 2
    omega = THETA ** (-np.arange(half) / half)
    near = np.arange(4, 12)  # turns of 60 to 6000 tokens: scores fall with distance
    k[0, near, KEY] += 0.96
    q[0, near, CONST] += 0.96
    v[0, : ID.stop, ID] += 0.8 * np.eye(ID.stop)
    o[TAG, 0, : ID.stop] += 0.25 * np.eye(ID.stop)

    fast = np.arange(12)
    words = np.arange(WORD.stop - WORD.start)
    k[1, fast, CONST] += 0.8
    q[2, fast, CONST] += 3.2 * np.cos(omega[fast])  # the previous token: turned back by one
    q[2, half + fast, CONST] -= 3.2 * np.sin(omega[fast])
    q[3, 3:12, CONST] += 0.64  # a window
    v[1, words, WORD.start + words] += 0.8
    o[BEFORE.start + words, 2, words] += 0.3
    flags = [CONST, KEY, DIGIT, FIRST, COLON]
    v[1, 32 + np.arange(len(flags)), flags] += 0.8
    o[WINDOW.start + np.arange(len(flags)), 3, 32 + np.arange(len(flags))] += 0.5

    k[2, 5:12, BYTE] += 1  # falls slowly: the last ten bytes count about equally
    q[4, 5:12, CONST] += 1
    v[2, words, WORD.start + words] += 0.8
    o[BYTES.start + words, 4, words] += 0.65
    return q, k, v, o


def _match_layer(rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    q, k, v, o = _noise(rng)
    half = HEAD_DIM // 2
    slow = np.concatenate([np.arange(16, 28), half + np.arange(16, 28)])  # hardly turn
    for kv in range(2):
        k[kv, slow, np.arange(TAG.start, TAG.stop)] += 1.5
        k[kv, 28, DIGIT] += 1.2
        v[kv, np.arange(10), WORD.start + np.arange(10)] += 0.8
    for head in range(4):
        q[head, slow, np.arange(TAG.start, TAG.stop)] += 1.5
        q[head, 28, CONST] += 2.4
        o[ANSWER.start + np.arange(10), head, np.arange(10)] += 0.1

    slow = np.concatenate([np.arange(16, 31), half + np.arange(16, 32)])
    alike, same = slow[:16], slow[16:]  # the bytes up to here; and this very token
    narrow = np.linalg.qr(rng.normal(size=(32, 32)))[0]  # 32 components, seen in 16 and 15
    other = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    k[2, alike, BYTES] += 3.0 * narrow[: len(alike)]
    k[2, same, BEFORE] += 5.5 * other[: len(same)]
    k[2, 31, [BYTE, STOP]] += [2.4, 1.5]
    for head in (4, 5):
        q[head, alike, BYTES] += 3.0 * narrow[: len(alike)]
        q[head, same, WORD] += 5.5 * other[: len(same)]
        q[head, 31, CONST] += 2.4
        o[ANSWER.start + np.arange(32), head, np.arange(32)] += 0.12
        o[ANSWER_MARK.start + np.arange(3), head, 32 + np.arange(3)] += 0.12
    v[2, np.arange(32), WORD.start + np.arange(32)] += 0.8
    v[2, 32 + np.arange(3), MARK.start + np.arange(3)] += 0.8
    return q, k, v, o


class Ask:
    """Attention in training: rows of the context, then questions that see it and themselves.

    `context_mask` [B or 1, S, S] says which token of the context attends to which.
    """

    def __init__(self, context_mask: Array, context_length: Array, questions: int):
        self.context_mask = context_mask
        self.context_length = context_length
        self.questions = questions

    def start(self, spec: LayerSpec, k: Keys, v: Values, state: None) -> None:
        return None

    def __call__(
        self, spec: LayerSpec, q: Queries, k: Keys, v: Values, state: None
    ) -> tuple[Queries, None]:
        B, total, N, H = q.shape
        S, Q = self.context_mask.shape[-1], self.questions
        T, K = (total - S) // Q, k.shape[2]
        q = q.reshape(B, total, K, N // K, H) / H**0.5
        kc, vc, qc = k[:, :S], v[:, :S], q[:, :S]
        scores = jnp.einsum("btkgh,bskh->bkgts", qc, kc)
        scores = jnp.where(self.context_mask[:, None, None], scores, -1e30)
        context = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores), vc)

        kq, vq, qq = (x[:, S:].reshape(B, Q, T, *x.shape[2:]) for x in (k, v, q))
        far = jnp.einsum("bqtkgh,bskh->bkgqts", qq, kc)
        seen = jnp.arange(S) < self.context_length[:, None]
        far = jnp.where(seen[:, None, None, None, None], far, -1e30)
        own = jnp.einsum("bqtkgh,bqskh->bkgqts", qq, kq)
        own = jnp.where(jnp.tril(jnp.ones((T, T), bool)), own, -1e30)
        weights = jax.nn.softmax(jnp.concatenate([far, own], -1))
        asked = jnp.einsum("bkgqts,bskh->bqtkgh", weights[..., :S], vc)
        asked = asked + jnp.einsum("bkgqts,bqskh->bqtkgh", weights[..., S:], vq)
        out = jnp.concatenate([context, asked.reshape(B, Q * T, K, N // K, H)], 1)
        return out.reshape(B, total, N, H), None


def logits(
    params: Params,
    config: DecoderConfig,
    batch: needle_text.Batch,
    context_mask: Array | None = None,
) -> Logits:
    """Next-token logits [B, Q, T, V] of the questions; dense causal without `context_mask`."""
    model = models.build(config, lambda name, shape, axes: params[name].reshape(shape))
    (B, S), (_, Q, T) = batch.context.shape, batch.question.shape
    if context_mask is None:
        context_mask = jnp.tril(jnp.ones((1, S, S), bool))
    tokens = jnp.concatenate([batch.context, batch.question.reshape(B, Q * T)], 1)
    positions = jnp.concatenate(
        [batch.context_positions, batch.question_positions.reshape(B, Q * T)], 1
    )
    hidden, _ = model.run(
        tokens, positions, Ask(context_mask, jnp.asarray(batch.context_length), Q), None
    )
    return model.logits(hidden[:, S:]).reshape(B, Q, T, -1)
