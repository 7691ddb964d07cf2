"""The metrics of data.metric, and perplexity from the model's likelihoods to the table."""

import csv
import dataclasses
import json
import math
import pathlib
import random
from typing import Any

import numpy as np
import pytest
from commands import REPOSITORY, results
from fake_engine import FakeEngine
from test_eval_runner import _here, make, run

import star_jax
from star_jax import Dense, Engine, Star
from star_jax.eval import config, metrics, perplexity, runner
from star_jax.eval.babilong.metric import COMPARE_ANSWERS, LABELS
from star_jax.eval.infinitebench import metrics as infinitebench
from star_jax.runs import forced, records
from star_jax.runs.ask import Held
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

__all__ = ["_here"]  # a fixture

GRASS, END = "the grass is green.\n" * 9, "it is the end.\n" * 8
QUESTIONS: list[dict[str, Any]] = [
    {"input_context": GRASS, "input_query": "is it?", "output": "the green"},
    {"input_context": "the sky.\n" * 7, "input_query": "is it?\n", "outputs": ["blue", "x"]},
    {"input_context": GRASS, "input_query": "and it?", "output": "a thin, red"},
    {"input_context": END, "input_query": "is", "outputs": [" so"]},
    {"input_context": END, "input_query": "is", "outputs": ["this is it"]},
]
ASK: dict[str, Any] = {
    "data__suite": "jsonl",
    "data__path": "mine.jsonl",
    "data__tasks": "",
    "data__lengths": "",
    "attention__block_size": "32",
    "attention__anchor_size": "b",
}


def write(*lines: dict[str, Any]) -> None:
    pathlib.Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "pred", "outputs", "expected"),
    [
        ("", "Red, or blue", ("blue", "green"), 0.5),
        ("match_all", "Red, or blue", ("blue", "green"), 0.5),
        ("match_part", "Red, or blue", ("blue", "green"), 1.0),
        ("exact_match", "The Blue.\n", ("red", "blue"), 1.0),
        ("exact_match", "It is blue.", ("red", "blue"), 0.0),
        ("f1", "It is blue", ("red", "very blue"), 2 * 1 / (3 + 2)),
        ("rouge", "it is\nblue", ("it was\nblue",), 2 / 3),
    ],
)
def test_scores_by_name(name: str, pred: str, outputs: tuple[str, ...], expected: float) -> None:
    metric = metrics.named(name)
    assert not metric.is_forced
    assert metric.score(f" {pred}\x00 ", Sample(0, "c", "q", outputs)) == pytest.approx(expected)


ODD = (
    *("", " ", "\0", "\n", ".", ",", "-", "+", "1.", ".1", "1..2", "0x1", "1e999", "-inf", "nan"),
    *("9" * 4301, "-" + "9" * 4301, "0" * 9999, "9" * 4301 + ".5", "1_0", "\u0663", "\u0661.1"),
    *("²", "Ⅷ", "ß" * 99, "İ" * 99, "\ud800", "a\udfff b", "\ufeff", "\u2028", "(" * 999, "[[{\\"),
    *("answer is:", "answer is: ", "The answer is", "<context>", "e,n", ",,,,", "%s {0} {x}"),
    *("A" * 999, "a" * 10**5),
)


@pytest.mark.parametrize("outputs", [("3", "12"), ("-12", "3"), ("a name", "B"), ("\ud800", "中")])
def test_no_prediction_makes_a_metric_fail(outputs: tuple[str, ...]) -> None:
    """Or it would end a run, and each one that goes on with it."""
    found = [metric for metric in metrics.METRICS.values() if not metric.is_forced]
    for task, metric in infinitebench.METRICS.items():
        if outputs[0] in ("3", "-12") or task not in ("code_run", "math_find", "math_calc"):
            found.append(metric)
    rng = random.Random(0)
    mixed = [" ".join(rng.choices(ODD, k=rng.randint(1, 4)))[:9999] for _ in range(50)]
    for pred in (*ODD, *mixed):
        sample = Sample(0, "c", "q", outputs)
        for metric in found:
            assert 0 <= metric.score(pred, sample) <= 1, (metric.name, pred[:20])
        for task in LABELS:
            asked = dataclasses.replace(sample, facts={"task": task, "question": "where\0?"})
            assert COMPARE_ANSWERS.score(pred, asked) in (0, 1)


def test_the_users_lines_are_scored_by_the_metric(here: pathlib.Path) -> None:
    """The fake engine answers "no idea" to all of them."""
    write(*({**one, "output": None, "outputs": ["no clue", "idea"]} for one in QUESTIONS))
    for name, score in (("match_all", 0.5), ("match_part", 1.0), ("f1", 2 / 3), ("rouge", 2 / 3)):
        run(**ASK, data__metric=name, output_dir=name)
        found = records.read(f"{name}/dense/all/mine.jsonl")
        assert [one["score"] for one in found] == pytest.approx([score] * 5)
        assert {one["metric"] for one in found} == {metrics.named(name).name}
    with pytest.raises(ValueError, match=r"data\.metric was 'f1' and is 'rougeLsum'"):
        run(**ASK, data__metric="rouge", output_dir="f1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data__metric": "bleu"},
            "data.metric: 'bleu' is unknown; there is match_all, mat",
        ),
        (
            {"data__metric": "f1", "data__suite": "ruler"},
            "data.metric='f1' is for data.suite='js",
        ),
        ({"data__metric": "perplexity"}, "mine.jsonl:2: no 'outputs', which perplexity is meas"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    here: pathlib.Path, changes: dict[str, Any], says: str
) -> None:
    write(QUESTIONS[0], {"input_context": "c", "input_query": "q"})
    with pytest.raises(ValueError, match=r"data|mine") as error:
        run(**(ASK | changes))
    assert says in str(error.value)
    assert FakeEngine.loaded == 0


def test_without_the_package_rouge_is_refused(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rouge_score", None)
    metrics.text_metrics._scorer.cache_clear()
    write(*QUESTIONS)
    with pytest.raises(ValueError, match=r"rouge-score .* pip install"):
        run(**ASK, data__metric="rouge")


@pytest.mark.parametrize(
    ("query", "output", "expected"),
    [("is it?", "so", " so"), ("it?\n", "so", "so"), ("it?", "\nso", "\nso"), ("it? ", " s", " s")],
)
def test_a_reference_begins_as_an_answer_does(query: str, output: str, expected: str) -> None:
    assert forced.reference(Sample(0, "c", query, (output, "other"))) == expected
    with pytest.raises(ValueError, match="index=7 has no reference"):
        forced.reference(Sample(7, "c", query, ()))


def test_perplexity_from_the_records_to_the_table(here: pathlib.Path) -> None:
    """Against the fake engine's rule, summed by hand over the references' tokens alone."""
    write(*QUESTIONS)
    table = run(**ASK, data__metric="perplexity")
    tokenizer = Tokenizer.from_pretrained("checkpoint")
    assert tokenizer is not None
    texts = [" the green", "blue", " a thin, red", " so", " this is it"]
    ids = [tokenizer.encode_query(text) for text in texts]
    sums = [-sum(each) / 8 for each in ids]
    counts = [len(each) for each in ids]
    for row, less in (("dense", 0.0), ("star_b32_a32", 0.5)):
        found = records.read(f"out/{row}/all/mine.jsonl")
        assert [one["n_scored"] for one in found] == counts
        expected = [total - less * count for total, count in zip(sums, counts, strict=True)]
        assert [one["logprob"] for one in found] == pytest.approx(expected)
        assert {(one["score"], one["pred"], one["n_generated"]) for one in found} == {(None, "", 0)}
    dense, star = csv.DictReader((here / "out" / "summary.csv").read_text().splitlines())
    exact = math.exp(-sum(sums) / sum(counts))
    assert float(dense["perplexity"]) == pytest.approx(exact)
    assert float(star["perplexity"]) == pytest.approx(exact * math.exp(0.5))
    assert float(star["perplexity_diff"]) == pytest.approx(exact * math.expm1(0.5))
    assert float(star["perplexity_low"]) < exact * math.exp(0.5) < float(star["perplexity_high"])
    assert dense["perplexity_diff"] == dense["score"] == dense["notes"] == ""
    assert "Perplexity is that of the reference answers" in table
    line = next(line for line in table.splitlines() if "| star_b32" in line)
    assert f"{exact * math.exp(0.5):.5g}" in line

    # Torn, gone on with, and with other batches, it comes out the same.
    expected_files = results(here / "out")
    torn = here / "out/dense/all/mine.jsonl"
    torn.write_bytes(torn.read_bytes()[:-9])
    run(**ASK, data__metric="perplexity", data__batch_size=3)
    assert results(here / "out") == expected_files


def test_other_tables_say_nothing_of_it(here: pathlib.Path) -> None:
    assert "erplexity" not in run(data__num_samples=1)


@pytest.mark.parametrize(
    "change",
    [
        {"logprob": 0.5},
        {"logprob": float("nan")},
        {"logprob": float("-inf")},
        {"logprob": "x"},
        {"n_scored": 0},
        {"n_scored": 1.5},
        {"logprob": None},
    ],
)
def test_a_record_whose_likelihood_cannot_be_is_refused(
    tmp_path: pathlib.Path, change: dict[str, Any]
) -> None:
    good = dict.fromkeys(records._NUMBERS, 1) | {"index": 0, "score": None}
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(good | {"logprob": -3.5, "n_scored": 2}) + "\n")
    assert len(records.recover(str(path), [0])) == 1
    path.write_text(json.dumps(good | {"logprob": -3.5, "n_scored": 2} | change) + "\n")
    with pytest.raises(ValueError, match=r"not a record: .* log-probability at most 0"):
        records.recover(str(path), [0])


def test_intervals_hold_as_often_as_they_say() -> None:
    """Texts of many lengths, some harder than others; a second model is a little worse on each."""
    rng = np.random.default_rng(0)

    def texts(n: int) -> tuple[Any, Any, Any]:
        counts = rng.integers(1, 20, n)
        hard = rng.gamma(4.0, 0.5, n)  # the mean -log p of a text
        ours = np.array([-rng.gamma(4.0 * c, h / 4) for c, h in zip(counts, hard, strict=True)])
        worse = ours * rng.normal(1.1, 0.05, n)
        return worse.tolist(), ours.tolist(), counts.tolist()

    star, dense, counts = texts(200_000)
    truth = perplexity.of(dense, counts)
    gap = perplexity.of(star, counts) - truth
    holds, holds_gap, narrow, rounds = 0, 0, 0, 600
    for _ in range(rounds):
        star, dense, counts = texts(60)
        found = perplexity.interval(dense, counts)
        assert found is not None
        holds += found[0] < truth < found[1]
        value, paired = perplexity.difference(star, dense, counts)
        assert paired is not None
        assert paired[0] < value < paired[1]
        holds_gap += paired[0] < gap < paired[1]
        narrow += paired[1] - paired[0] < (found[1] - found[0]) / 2
    assert 0.91 < holds / rounds < 0.98
    assert 0.90 < holds_gap / rounds < 0.98
    assert narrow > 0.95 * rounds
    assert perplexity.interval([-1.0], [3]) is None
    assert perplexity.difference([-3.0], [-3.0], [3]) == (0.0, None)
    assert perplexity.of([-1e6], [1]) == math.inf


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::star_jax.advice.Advice")
def test_the_shipped_models_logits_give_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum over the softmax of `score`'s logits, for each kind of attention."""
    monkeypatch.chdir(tmp_path)
    path = str(REPOSITORY / "checkpoints" / "needle")
    write(*QUESTIONS[:3])
    attention = {"attention__kind": "dense,star", "attention__block_size": "16"}
    given = make(**(ASK | attention), data__metric="perplexity", model__path=path)
    given.model.dtype, given.mesh.data = "float32", 1
    monkeypatch.setattr(runner, "Engine", Engine)  # no fake
    runner.run(config.resolve(given))
    mesh = star_jax.make_mesh()
    for row, kind in (("dense", Dense()), ("star_b16_a16", Star(block_size=16))):
        engine = Engine.from_pretrained(path, mesh=mesh, attention=kind, dtype="float32")
        tokenizer = engine.tokenizer
        found = records.read(f"out/{row}/all/mine.jsonl")
        for one, answer in zip(found, (" the green", "blue", " a thin, red"), strict=True):
            context = engine.prefill(tokenizer.encode_context(one["input_context"]))
            asked = tokenizer.encode_query(one["input_query"])
            ids = tokenizer.encode_query(answer)
            logits = np.asarray(engine.score(context, asked + ids), np.float64)[len(asked) - 1 : -1]
            logits -= logits.max(axis=-1, keepdims=True)
            each = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            expected = each[np.arange(len(ids)), ids].sum()
            assert one["logprob"] == pytest.approx(expected, abs=1e-3)
            assert one["n_scored"] == len(ids)


def test_a_query_that_ends_in_a_templates_token(here: pathlib.Path) -> None:
    """The reference has the tokens that it has behind that one."""
    tokenizer = Tokenizer.from_pretrained("checkpoint")
    assert tokenizer is not None
    engine = FakeEngine(tokenizer, Dense())
    query = "is" + Prompt.template("</s>")
    sample = Sample(0, "c", query, ("the </s>",))
    ids = tokenizer.encode_query(query)
    (found,), _ = forced.measure(engine, [sample], [[0, 5]], [ids], held=Held())
    expected = tokenizer.encode_query(query + " the </s>")[len(ids) :]
    assert found == pytest.approx([-one / 8 for one in expected])
