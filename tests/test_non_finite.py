"""A model that overflows, or whose weights are not numbers, is an error: never an answer."""

from typing import Any

import command_folder
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from further import further
from safetensors.numpy import load_file, save_file
from test_generate import Letters

import star_jax
from star_jax import Dense, Engine, Star

DAMAGE = {
    "overflow": lambda x: x * 3e4,  # finite in float16; what it is multiplied with is not
    "infinite": lambda x: x.at[(0,) * x.ndim].set(np.inf),
    "not a number": lambda x: x.at[(0,) * x.ndim].set(np.nan),
}


def engine(damage, dtype, attention=None):
    model = tiny.model(dtype=dtype)
    weight = model.layers[0].mlp.up_weight
    weight[...] = damage(weight[...])
    mesh = star_jax.make_mesh(data=2, context=2)
    attention = attention or Star(block_size=32)
    return Engine(model, mesh=mesh, attention=attention, tokenizer=Letters())


@pytest.mark.parametrize(
    ("damage", "dtype", "attention"),
    [
        ("overflow", "float16", Star(block_size=32)),
        *further(
            ("infinite", "float32", Dense()), ("not a number", "bfloat16", Star(block_size=32))
        ),
    ],
)
def test_nothing_is_answered(damage, dtype, attention):
    e = engine(DAMAGE[damage], dtype, attention)
    context, query = e.prefill(tiny.ids(100)), tiny.ids(5)
    batch = e.prefill([tiny.ids(100), tiny.ids(90)])
    drawn = star_jax.Sampling(seed=1, top_k=5)
    calls = [
        lambda: e.generate(context, query, max_new_tokens=4),
        lambda: e.likelihood(batch, query),
    ]
    if damage == "overflow":  # what looks for it does not know what it is
        calls += [
            lambda: e.generate(batch, query, max_new_tokens=4, sampling=drawn, samples=2),
            lambda: list(e.stream(context, query, max_new_tokens=4)),
            lambda: e.score(context, query),
            lambda: e.score_document(tiny.ids(100), window=40),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"non-finite logits.*{dtype}.*try dtype="):
            call()


@pytest.mark.parametrize("value", [np.inf, *further(-np.inf)])
def test_one_logit_is_enough(value):
    """Also one that is minus infinity, which no other token would notice."""
    e = engine(lambda x: x, "float32")
    weight: Any = e.model.head
    weight[...] = weight[...].at[7, 0].set(value)
    context, query = e.prefill(tiny.ids(100)), [1, 2, 3]
    for call in (
        lambda: e.generate(context, query, max_new_tokens=1),
        lambda: e.generate(context, query, max_new_tokens=1, sampling={"top_k": 5, "seed": 1}),
        lambda: e.score(context, query),
        lambda: e.likelihood(context, query),
    ):
        with pytest.raises(ValueError, match="non-finite logits"):
            call()


def test_what_overflows_in_float16_runs_in_others():
    for dtype in ("float32", "bfloat16"):
        e = engine(DAMAGE["overflow"], dtype)
        answer = e.generate(e.prefill(tiny.ids(100)), tiny.ids(5), max_new_tokens=4)
        assert len(answer.tokens) == 4 and np.isfinite(answer.logprobs).all()


def test_a_row_of_padding_may_be_anything():
    """Three rows on a mesh for two: the fourth has no context, and its numbers say nothing."""
    e = engine(lambda x: x, "float32")
    rows = [tiny.ids(n) for n in (100, 90, 95)]
    answers = e.generate(e.prefill(rows), tiny.ids(5), max_new_tokens=4)
    assert [len(a.tokens) for a in answers] == [4, 4, 4]


def test_logits_go_bad_in_the_middle_of_an_answer():
    e = engine(lambda x: x, "float32")
    context, query = e.prefill(tiny.ids(100)), tiny.ids(5)
    tokens = e.generate(context, query, max_new_tokens=40, ignore_eos=True).tokens
    late = next(t for t in tokens[1:] if t not in (*tokens[:1], *query, *tiny.ids(100)))
    weight = e.model.embedding
    weight[...] = jnp.asarray(weight[...]).at[late].set(jnp.nan)
    bad = Engine(jax.tree.map(lambda x: x, e.model), mesh=e.mesh, attention=e.attention)
    with pytest.raises(ValueError, match="non-finite logits"):
        bad.generate(bad.prefill(tiny.ids(100)), query, max_new_tokens=40, ignore_eos=True)


@pytest.mark.long
def test_what_follows_the_end_of_a_row_may_be_anything():
    """The row that has met its EOS goes on beside the others: from an embedding that is NaN."""
    e = engine(lambda x: x, "float32")
    rows, query = [tiny.ids(100), tiny.ids(90, seed=2), tiny.ids(95)], tiny.ids(5)
    first, *others = e.generate(e.prefill(rows), query, max_new_tokens=20, ignore_eos=True)
    taken = {*query, *(t for row in rows for t in row), *(t for a in others for t in a.tokens)}
    end = next(t for t in first.tokens if t not in taken)
    weight = e.model.embedding
    weight[...] = jnp.asarray(weight[...]).at[end].set(jnp.nan)
    bad = Engine(e.model, mesh=e.mesh, attention=e.attention)
    bad.eos_token_ids = (end,)
    answers = bad.generate(bad.prefill(rows), query, max_new_tokens=20)
    assert answers[0].stop_reason == "eos"
    assert answers[0].tokens == first.tokens[: first.tokens.index(end)]
    assert [a.tokens for a in answers[1:]] == [a.tokens for a in others]


def damaged(folder):
    """The folder of a command, with weights that overflow in float16 and only there."""
    command_folder.fill(folder)
    path = folder / "checkpoint" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "mlp." in name:
            tensors[name] = (tensor.astype(np.float32) * 3e3).astype(tensor.dtype)
    save_file(tensors, path)
    return folder


@pytest.mark.parametrize("command", ["eval", *further("infer")])
def test_a_run_ends_with_one_line_and_no_record(tmp_path, command):
    here = damaged(tmp_path)
    before = set(command_folder.files(here))
    if command == "eval":
        run = command_folder.evaluate(here, "--config.model.dtype=float16")
    else:
        run = command_folder.infer(here, dtype="float16")
    assert "non-finite logits" in run.error and "float16" in run.error
    assert set(command_folder.files(here)) == before
