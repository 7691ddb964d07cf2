"""What type checkers infer, of the README's blocks and of what overloads promise."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
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


def mypy(folder: pathlib.Path, code: str) -> list[str]:
    """What `mypy --strict` says of the code, line for line; nothing of what the code imports."""
    file = folder / "example.py"
    file.write_text(code)
    # A cache of its own: what one set of options has found is nothing to another.
    strict = ["--strict", "--config-file=", "--cache-dir=.mypy_cache/strict"]
    quiet = ["--follow-imports=silent", "--no-error-summary"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *strict, *quiet, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.stderr, run.stderr
    return run.stdout.splitlines()


def test_the_readme_and_the_overloads(tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```py(?:thon)?\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 2
    assert not mypy(tmp_path, "".join(blocks) + RIGHT)


def test_mistakes_are_errors(tmp_path):
    header = "import star_jax\n\n\ndef wrong(engine: star_jax.Engine) -> None:\n"
    header += "    one, many = engine.prefill([1]), engine.prefill([[1]])\n"
    said = mypy(tmp_path, header + "".join(f"    {line}\n" for line in WRONG.values()))
    lines = {int(line.split(":")[1]) for line in said if ": error: " in line}
    first = header.count("\n") + 1
    missed = [name for i, name in enumerate(WRONG) if first + i not in lines]
    assert not missed and min(lines) >= first, said
