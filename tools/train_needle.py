"""Trains checkpoints/needle: a small Llama that answers RULER's needle tasks.

    python -m tools.train_needle --output=checkpoints/needle

On two CPU cores about 23 minutes. Dense causal attention only.
"""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from star_jax import models
from star_jax.array_typing import Array
from star_jax.models import DecoderConfig
from tools import needle_model, needle_text

_OUTPUT = flags.DEFINE_string("output", None, "Where the checkpoint is written.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the start and of the training text.")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps of training on one length of context."""

    steps: int
    rows: int
    questions: int
    recipe: needle_text.Recipe


# Longer and longer contexts; the positions reach the longest from the first step on.
STAGES = (
    Stage(340, 8, 4, needle_text.Recipe(256, 2048, 0.5, 0.4)),
    Stage(240, 4, 6, needle_text.Recipe(512, 2560, 0.5, 0.4)),
    Stage(130, 2, 8, needle_text.Recipe(1024, 3072, 0.5, 0.4)),
    Stage(50, 1, 12, needle_text.Recipe(2048, 4000, 0.3, 0.4)),
)
PEAK_RATE = 1e-3
FIRST = 4.0  # weight in the loss of a value's first token: the others are easy once it is found
UUIDS = 0.5  # share of the steps
LOG_EVERY = 20


def loss_and_accuracy(
    params: needle_model.Params,
    batch: needle_text.Batch,
    *,
    config: DecoderConfig,
    query_length: int,
) -> tuple[Array, Array]:
    """The weighted loss, and the accuracy of [colon, value's tokens, full stop, EOS]."""
    logits = needle_model.logits(params, config, batch)[:, :, query_length - 1 :]
    target = batch.target[:, :, query_length - 1 :]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, target).mean((0, 1))
    weight = jnp.asarray([0.5, FIRST, *[1.0] * (target.shape[-1] - 4), 0.5, 0.5])
    return (loss * weight).sum() / weight.sum(), (logits.argmax(-1) == target).mean((0, 1))


def train(
    params: needle_model.Params,
    config: DecoderConfig,
    writers: Sequence[needle_text.Writer],
    rng: np.random.Generator,
) -> needle_model.Params:
    total = sum(stage.steps for stage in STAGES)
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, 30, total, PEAK_RATE / 50)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.98))

    @functools.partial(jax.jit, donate_argnums=(0, 1), static_argnums=3)
    def step(
        params: Any, state: Any, batch: needle_text.Batch, query_length: int
    ) -> tuple[Any, ...]:
        objective = functools.partial(loss_and_accuracy, config=config, query_length=query_length)
        (loss, accuracy), grads = jax.value_and_grad(objective, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, accuracy

    state, done, began = optimizer.init(params), 0, time.monotonic()
    recent: dict[str, list[tuple[Array, Array]]] = {writer.kind: [] for writer in writers}
    for stage in STAGES:
        for _ in range(stage.steps):
            writer = writers[int(rng.random() < UUIDS)]
            batch = writer.batch(rng, stage.recipe, stage.rows, stage.questions)
            params, state, *measured = step(params, state, batch, writer.query_length)
            recent[writer.kind].append((measured[0], measured[1]))
            done += 1
            if done % LOG_EVERY == 0 or done == 1:
                where = f"step {done}/{total}, {stage.recipe.length} tokens"
                logging.info("%s, %.0f s", where, time.monotonic() - began)
                for kind, seen in recent.items():
                    if seen:
                        logging.info("  %s: %s", kind, _means(seen))
                    seen.clear()
    return params


def _means(recent: list[tuple[Array, Array]]) -> str:
    """The value's first token apart: others can be right by continuation while it is a guess."""
    losses, accuracies = map(np.asarray, zip(*recent, strict=True))
    mean = accuracies.mean(0)
    return (
        f"loss {losses.mean():.3f}, first {mean[1]:.3f}, "
        f"others {mean[2:-2].round(2)}, end {mean[-2:].round(2)}"
    )


def save(
    directory: str, params: needle_model.Params, fields: dict[str, Any], tokenizer: Tokenizer
) -> None:
    """Writes a Hugging Face checkpoint, and the keys that it knows."""
    os.makedirs(directory, exist_ok=True)

    def write(name: str, text: str) -> None:
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            f.write(text)

    arrays = {name: np.ascontiguousarray(value) for name, value in params.items()}
    save_file(arrays, os.path.join(directory, "model.safetensors"), {"format": "pt"})
    special = {name: fields[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    generation = {f"{name}_token_id": value for name, value in special.items()}
    names = {f"{name}_token": tokenizer.id_to_token(value) for name, value in special.items()}
    wrapper = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "unk_token": needle_text.UNK,
    }
    write("config.json", json.dumps(fields, indent=2) + "\n")
    write("generation_config.json", json.dumps(generation, indent=2) + "\n")
    write("tokenizer_config.json", json.dumps(wrapper | names, indent=2) + "\n")
    write("tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write("keys.txt", "\n".join(needle_text.KEYS) + "\n")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    rng = np.random.default_rng(_SEED.value)
    tokenizer = needle_text.make_tokenizer()
    fields = needle_model.config_fields(tokenizer)
    params = needle_model.start(tokenizer, rng)
    writers = [needle_text.Writer(tokenizer, kind) for kind in needle_text.KINDS]
    params = train(params, models.from_dict(fields), writers, rng)
    save(_OUTPUT.value, params, fields, tokenizer)


if __name__ == "__main__":
    app.run(main)
