"""The small model that ships: it loads anywhere, its tokenizer is regular, and it answers."""

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers

import star_jax
from star_jax import checkpoint, models
from star_jax.eval import ruler
from star_jax.runs import metrics
from star_jax.runs.sample import Sample
from star_jax.text.tokenizer import Tokenizer

CHECKPOINT = pathlib.Path(__file__).parents[1] / "checkpoints" / "needle"
KEYS = (CHECKPOINT / "keys.txt").read_text().split()
MAX_NEW_TOKENS = 20
TASKS = ["niah_single_1", "niah_multikey_2", "niah_multikey_3"]  # what the model knows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(CHECKPOINT, local_files_only=True)


@pytest.fixture(scope="module")
def oracle() -> Any:
    model = transformers.LlamaForCausalLM.from_pretrained(CHECKPOINT, local_files_only=True)
    return model.eval()


def sample(tokenizer: Any, task: str, index: int, length: int = 512) -> Sample:
    return ruler.generate(
        task,
        length=length,
        index=index,
        seed=7,
        count_tokens=lambda text: len(tokenizer(text)["input_ids"]),
        max_new_tokens=MAX_NEW_TOKENS,
        wrap=ruler.TEMPLATES["base"],
        keys=KEYS,
    )


def test_port_and_transformers_give_equal_logits(oracle: Any, tokenizer: Any) -> None:
    mesh = star_jax.make_mesh()
    model = checkpoint.load(CHECKPOINT, models.read(CHECKPOINT), mesh=mesh, dtype="float32")
    text = sample(tokenizer, "niah_multikey_2", 0)
    ids = tokenizer(text.context + text.query)["input_ids"]
    ours, _, _ = tiny.forward(model, ids, np.arange(len(ids)))
    with torch.no_grad():
        theirs = oracle(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("task", TASKS)
def test_greedy_answers(oracle: Any, tokenizer: Any, task: str) -> None:
    scores = []
    for index in range(6):
        text = sample(tokenizer, task, index)
        ids = torch.tensor([tokenizer(text.context + text.query)["input_ids"]])
        with torch.no_grad():
            out = oracle.generate(ids, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answer = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert re.fullmatch(r": (\d{7}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\.", answer)
        scores.append(metrics.string_match_all(metrics.postprocess(answer), text.outputs))
    assert sum(scores) >= 5


@pytest.mark.parametrize("task", TASKS)
def test_tokenizer_is_lossless_and_cuts_context_from_query(tokenizer: Any, task: str) -> None:
    text = sample(tokenizer, task, 1)
    context = tokenizer(text.context)["input_ids"]
    query = tokenizer(text.query, add_special_tokens=False)["input_ids"]
    assert context + query == tokenizer(text.context + text.query)["input_ids"]
    assert context.count(tokenizer.bos_token_id) == 1
    assert tokenizer.unk_token_id not in context + query
    assert tokenizer.decode(context[1:] + query) == text.context + text.query
    for answer, count in ((": 1203405.", 9), (": 0cb6d22a-ae65-44e9-938f-b594be31c886.", 18)):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert len(ids) == count
        assert tokenizer.decode(ids) == answer

    ours = Tokenizer.from_pretrained(CHECKPOINT)
    assert ours is not None
    assert ours.encode_context(text.context) == context
    assert ours.encode_query(text.query) == query


def test_a_key_is_one_token(tokenizer: Any) -> None:
    ids = [tokenizer(f" {key}", add_special_tokens=False)["input_ids"] for key in KEYS]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids} - {tokenizer.unk_token_id}) == len(KEYS) == 256


def test_special_tokens_are_the_configs(tokenizer: Any) -> None:
    fields = json.loads((CHECKPOINT / "config.json").read_text())
    for name in ("bos", "eos", "pad"):
        assert fields[f"{name}_token_id"] == getattr(tokenizer, f"{name}_token_id")
    assert models.read(CHECKPOINT).eos_token_ids == (tokenizer.eos_token_id,)
