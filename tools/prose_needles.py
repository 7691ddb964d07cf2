"""Writes questions about needles in prose, for the jsonl suite of `python -m star_jax.eval`.

    python -m tools.prose_needles --output=results/smollm2_prose/1024.jsonl --length=1024

RULER's niah_multikey_1, four needles with one asked for, among the sentences of the text that
RULER's substitute is, instead of essays. With --asked=4 a text is followed by four questions, and
encoded once for them.
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
MOST = 2  # times that the text is told


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_string("output", None, "Where the lines are written.", required=True)
    flags.DEFINE_integer(
        "length", None, "At most so many tokens each.", required=True, lower_bound=1
    )
    flags.DEFINE_integer("num_samples", 20, "Questions.", lower_bound=1)
    flags.DEFINE_integer(
        *("asked", 1, "Questions of one text, which are about different needles."),
        lower_bound=1,
        upper_bound=NEEDLES,
    )


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    from star_jax.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(smollm2.make())
    if tokenizer is None:
        raise ValueError(f"{smollm2.OUTPUT} has no tokenizer")
    limits.check_samples("--num_samples", given.num_samples)
    lines = []
    for index in range(given.num_samples):
        text, asked = divmod(index, given.asked)
        fields = question(text, given.length, tokenizer.count, asked=asked)
        lines.append(json.dumps({"index": index, **fields}) + "\n")
    output = pathlib.Path(given.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(lines))


def question(
    index: int, length: int, count: Callable[[str], int], *, asked: int = 0
) -> dict[str, Any]:
    """One line, the same whenever it is made: `count` gives the tokens of a text.

    index: of the text. asked: which of its needles is asked for; the text is the same for all.

    Raises:
      ValueError: the needles do not fit the length, or the text does not fill it.
    """
    rng = random.Random(f"{index} {length}")
    keys, values, needles = documents.draw_needles(rng, NEEDLES)
    head, tail = niah.CONTEXT.replace("{kind}", "number").split("{lines}")
    queries = [niah.QUESTION.format(kind="number", key=key) for key in keys]
    prefixes = [niah.ANSWER_PREFIX.format(kind="number", key=key) for key in keys]

    asking = max(count(a) + count(b) for a, b in zip(queries, prefixes, strict=True))
    room = length - MARGIN - asking - sum(map(count, [head, tail, *needles]))
    if room < 0:
        raise ValueError(f"{length=} is {-room} tokens too short for {NEEDLES} needles")
    text = sentences()
    start, prose = rng.randrange(len(text)), []
    for i in range(MOST * len(text)):
        sentence = text[(start + i) % len(text)]
        room -= count(sentence + " ")
        if room < 0:
            break
        prose.append(sentence)
    else:
        raise ValueError(f"{length=} is more than {MOST} times the text: {room} tokens are left")
    for needle in needles:
        prose.insert(rng.randint(0, len(prose)), needle)
    return {
        "input_context": head + " ".join(prose) + tail,
        "input_query": queries[asked],
        "answer_prefix": prefixes[asked],
        "outputs": [values[asked]],
    }


def sentences() -> list[str]:
    """Those of the text, in order."""
    return re.split(r"(?<=[.!?]) ", " ".join(demo_language.DOCUMENT.read_text().split()))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
