"""Writes prose in two parts, for the jsonl suite of `python -m star_jax.eval` with `perplexity`.

    python -m tools.prose_documents --output=results/prose.jsonl --length=2048

Each line is a context, a sentence that follows it, and what follows that, of which the evaluation
takes the log-likelihood. No token is among what is scored twice. The prose is the reference manual
that comes with Python; see `benchmarks.documents`.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

from absl import flags

from benchmarks import documents
from star_jax.runs import cli, limits
from tools import smollm2


def define_flags() -> None:
    """The command's."""
    flags.DEFINE_string("output", None, "Where the lines are written.", required=True)
    flags.DEFINE_integer("length", None, "Tokens of a context.", required=True, lower_bound=1)
    flags.DEFINE_integer("scored", 1000, "Tokens that are scored after each.", lower_bound=1)
    flags.DEFINE_integer("num_samples", 20, "Documents.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    from star_jax.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(smollm2.make())
    if tokenizer is None:
        raise ValueError(f"{smollm2.OUTPUT} has no tokenizer")
    limits.check_samples("--num_samples", given.num_samples)
    parts = split(given.length, given.scored, given.num_samples, tokenizer.count)
    output = pathlib.Path(given.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        for index, (context, query, scored) in enumerate(parts):
            fields = {"input_context": context, "input_query": query, "outputs": [scored]}
            file.write(json.dumps({"index": index, **fields}) + "\n")


def split(
    length: int, scored: int, number: int, count: Callable[[str], int]
) -> Iterator[tuple[str, str, str]]:
    """Contexts, the sentence after each, and what is scored: of at least so many tokens each.

    Raises:
      ValueError: the prose is too short for so many tokens that are scored.
    """
    text = [f"{sentence} " for sentence in documents.sentences()]
    sizes = [count(sentence) for sentence in text]

    def take(start: int, tokens: int) -> tuple[str, int]:
        """Sentences from one on, which begin anew behind the last; where the next one is."""
        end = start
        while tokens > 0:
            tokens -= sizes[end % len(text)]
            end += 1
        return "".join(text[i % len(text)] for i in range(start, end)), end

    first = 0  # of what is scored
    for _ in range(number):
        answer, end = take(first, scored)
        if end > len(text):
            raise ValueError(f"{number=} times {scored=} tokens are more than the prose has")
        start = first - 1
        while sum(sizes[i % len(text)] for i in range(start, first - 1)) < length:
            start -= 1
        context = "".join(text[i % len(text)] for i in range(start, first - 1))
        yield context, text[first - 1].strip(), f" {answer.strip()}"
        first = end


if __name__ == "__main__":
    define_flags()
    cli.run(main)
