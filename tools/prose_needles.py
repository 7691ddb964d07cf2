"""Writes questions about needles in prose, for the jsonl suite of `python -m star_jax.eval`.

    python -m tools.prose_needles --output=results/smollm2_prose/1024.jsonl --length=1024

RULER's niah_multikey_1, four needles with one asked for, among the sentences of the text in
this folder instead of essays.
"""

import json
import pathlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from benchmarks import documents
from star_jax.eval.ruler import niah
from star_jax.runs import cli, limits
from tools import demo_language, smollm2

NEEDLES = 4
MARGIN = 64  # tokens for the chat template and the answer


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_string("output", None, "Where the lines are written.", required=True)
    flags.DEFINE_integer(
        "length", None, "At most so many tokens each.", required=True, lower_bound=1
    )
    flags.DEFINE_integer("num_samples", 20, "Questions.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    from star_jax.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(smollm2.make())
    if tokenizer is None:
        raise ValueError(f"{smollm2.OUTPUT} has no tokenizer")
    limits.check_samples("--num_samples", given.num_samples)
    lines = [
        json.dumps({"index": index, **question(index, given.length, tokenizer.count)}) + "\n"
        for index in range(given.num_samples)
    ]
    output = pathlib.Path(given.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(lines))


def question(index: int, length: int, count: Callable[[str], int]) -> dict[str, Any]:
    """One line, the same whenever it is made: `count` gives the tokens of a text.

    Raises:
      ValueError: the needles do not fit the length, or the text does not fill it.
    """
    rng = random.Random(f"{index} {length}")
    keys, values, needles = documents.draw_needles(rng, NEEDLES)
    head, tail = niah.CONTEXT.replace("{kind}", "number").split("{lines}")
    query = niah.QUESTION.format(kind="number", key=keys[0])
    prefix = niah.ANSWER_PREFIX.format(kind="number", key=keys[0])

    room = length - MARGIN - sum(map(count, [head, tail, query, prefix, *needles]))
    if room < 0:
        raise ValueError(f"{length=} is {-room} tokens too short for {NEEDLES} needles")
    text = sentences()
    start, prose = rng.randrange(len(text)), []
    for i in range(len(text)):
        sentence = text[(start + i) % len(text)]
        room -= count(sentence + " ")
        if room < 0:
            break
        prose.append(sentence)
    else:
        raise ValueError(f"{length=} is more than the text has: {room} tokens are left")
    for needle in needles:
        prose.insert(rng.randint(0, len(prose)), needle)
    return {
        "input_context": head + " ".join(prose) + tail,
        "input_query": query,
        "answer_prefix": prefix,
        "outputs": values[:1],
    }


def sentences() -> list[str]:
    """Those of the text, in order."""
    return re.split(r"(?<=[.!?]) ", " ".join(demo_language.DOCUMENT.read_text().split()))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
