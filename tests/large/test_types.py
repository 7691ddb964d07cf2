"""What type checkers infer, of the README's blocks and of what overloads promise."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
RIGHT = """
import jax
import numpy as np
from typing import Any, assert_type
from star_jax import Answer, Context, ContextBatch, Engine, Event, Scores
from star_jax.text.tokenizer import Tokenizer


def right(engine: Engine, n: int, some: int | None, array: jax.Array) -> None:
    row, matrix = np.zeros(3, np.int32), np.zeros((2, 3), np.int64)
    one = engine.prefill([1, 2])
    many = engine.prefill([[1], [2, 3]])
    assert_type(one, Context)
    assert_type(many, ContextBatch)
    for single in (engine.prefill((1, 2)), engine.prefill(row), engine.prefill(array)):
        assert_type(single, Context)
    for several in (engine.prefill([row, row]), engine.prefill(((1, 2), (3,)))):
        assert_type(several, ContextBatch)
    assert_type(engine.prefill(matrix), ContextBatch)
    assert_type(one.prefix(1).block_until_ready(), Context)
    assert_type(many.prefix(1).block_until_ready(), ContextBatch)
    one_score: np.ndarray[Any, Any] = engine.score(one, [1])
    scores: list[np.ndarray[Any, Any]] = engine.score(many, row)
    scores = engine.score(many, [[1], [2]])
    assert_type(engine.likelihood(one, [1, 2]), Scores)
    assert_type(engine.likelihood(many, [1, 2]), list[Scores])
    assert_type(engine.score_document([1, 2]), Scores)
    assert_type(engine.score_document([[1, 2]], window=np.int64(5)), list[Scores])
    assert_type(engine.generate(one, row, max_new_tokens=1), Answer)
    assert_type(engine.generate(one, array, max_new_tokens=n, samples=None), Answer)
    assert_type(engine.generate(one, [1], max_new_tokens=1, samples=n), list[Answer])
    assert_type(engine.generate(many, [1], max_new_tokens=1), list[Answer])
    assert_type(engine.generate(many, [[1], [2]], max_new_tokens=1), list[Answer])
    assert_type(engine.generate(many, [1], max_new_tokens=1, samples=2), list[list[Answer]])
    assert_type(engine.generate(one, [[1], [2]], max_new_tokens=1), list[Answer])
    assert_type(engine.generate(one, [row, row], max_new_tokens=1, samples=2), list[list[Answer]])
    nested = [[[1], [2]], [[3]]]
    assert_type(engine.generate(many, nested, max_new_tokens=1), list[list[Answer]])
    assert_type(engine.generate(many, nested, max_new_tokens=1, samples=2)[0][0], list[Answer])
    assert_type(engine.likelihood(one, [[1, 2], [2, 3]]), list[Scores])
    assert_type(engine.likelihood(many, nested), list[list[Scores]])
    generation = engine.start(one, [1], max_new_tokens=1)
    for event in generation:
        assert_type(event, Event)
    assert_type(generation.answer, Answer)
    answer: Answer | list[Answer] = engine.generate(one, [1], max_new_tokens=1, samples=some)
    for piece in engine.stream(one, [1], max_new_tokens=1, stop=["a"], sampling={"seed": 1}):
        assert_type(piece, str)
    assert_type(engine.tokenizer, Tokenizer)
    assert_type(engine.generate(one, [1], max_new_tokens=1).seed, int | None)
"""
WRONG = {  # each an error, on a line of its own
    "one context takes one list of queries": "engine.score(one, [[[1]]])",
    "text is no ids": 'engine.prefill("text")',
    "texts are no ids": 'engine.prefill(["text"])',
    "floats are no ids": "engine.prefill([1.5])",
    "a limit is needed": "engine.generate(one, [1])",
    "a limit is a number": "engine.generate(one, [1], max_new_tokens=None)",
    "a list of answers has no text": "engine.generate(many, [1], max_new_tokens=1).text",
}


HEADER = (
    "import star_jax\n\n\ndef wrong(engine: star_jax.Engine) -> None:\n"
    "    one, many = engine.prefill([1]), engine.prefill([[1]])\n"
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `mypy --strict` says of two programs; nothing of what they import."""
    blocks = re.findall(r"```py(?:thon)?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    folder = tmp_path_factory.mktemp("types")
    right, wrong = folder / "right.py", folder / "wrong.py"
    right.write_text("".join(blocks) + RIGHT)
    wrong.write_text(HEADER + "".join(f"    {line}\n" for line in WRONG.values()))
    # A cache of its own: what one set of options has found is nothing to another.
    strict = ["--strict", "--config-file=", "--cache-dir=.mypy_cache/strict"]
    quiet = ["--follow-imports=silent", "--no-error-summary"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *strict, *quiet, str(right), str(wrong)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.stderr, run.stderr
    lines = run.stdout.splitlines()
    return {file.stem: [x for x in lines if file.name in x] for file in (right, wrong)}


def test_the_readme_and_the_overloads(said: dict[str, list[str]]) -> None:
    assert not said["right"]


def test_mistakes_are_errors(said: dict[str, list[str]]) -> None:
    lines = {int(line.split(":")[1]) for line in said["wrong"] if ": error: " in line}
    first = HEADER.count("\n") + 1
    missed = [name for i, name in enumerate(WRONG) if first + i not in lines]
    assert not missed and min(lines) >= first, said["wrong"]
