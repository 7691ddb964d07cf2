"""Asks a real language model about a real text, by Star Attention and by exact attention.

    make demo-language

Each encodes the text once, on simulated devices, and is asked four times. The model is small, and
the questions are such as it can answer: it is given how an answer begins, and goes on from there.
"""

import pathlib
import sys
import time

import star_jax
from star_jax.engine import Engine
from star_jax.text.tokenizer import Tokenizer
from tools import smollm2

DOCUMENT = pathlib.Path(__file__).parents[1] / "eval" / "ruler" / "constitution.txt"
DEVICES = 4
BLOCK = 1152  # a quarter of the text, and a little
MAX_NEW_TOKENS = 12

# A question, how its answer begins, and what a right one has in it.
QUESTIONS = (
    ("On which day shall the Congress assemble?", "The Congress shall assemble on", "December"),
    (
        "Where shall all Bills for raising Revenue originate?",
        "They shall originate in the",
        "House of Representatives",
    ),
    (
        "How many days does the President have to return a Bill?",
        "The President has",
        "10 days",
    ),
    (
        "How many years is the President's term?",
        "The President holds his Office during the Term of",
        "four years",
    ),
)


def main() -> int:
    star_jax.simulate_cpu_devices(DEVICES)
    engine = Engine.from_pretrained(
        smollm2.OUTPUT,
        mesh=star_jax.make_mesh(context=DEVICES),
        attention=star_jax.Star(block_size=BLOCK),
        dtype="float32",
    )
    right = [_ask(engine, f"star, {DEVICES} blocks of {BLOCK}")]
    right += [_ask(engine.with_attention(star_jax.Ring()), "exact")]
    print(f"right: star {right[0]}, exact {right[1]}, of {len(QUESTIONS)}")
    return 0


def prompt(
    tokenizer: Tokenizer, document: str, question: str, answer_prefix: str = ""
) -> tuple[list[int], list[int]]:
    """The ids of context and query: a message in the model's chat template, cut in two."""
    before, after = tokenizer.chat(document, question, answer_prefix=answer_prefix)
    return tokenizer.encode_context(before), tokenizer.encode_query(after)


def _ask(engine: Engine, name: str) -> int:
    """Encodes the text, streams an answer to each question, and returns how many are right."""
    tokenizer = engine.tokenizer
    document = f"Read this text.\n\n{DOCUMENT.read_text()}\nAnswer a question about the text. "
    context, right = None, 0
    for question, begun, wanted in QUESTIONS:
        context_ids, query_ids = prompt(tokenizer, document, question, begun)
        if context is None:
            start = time.perf_counter()
            context = engine.prefill(context_ids).block_until_ready()
            seconds = time.perf_counter() - start
            print(f"{name}: {len(context_ids)} tokens encoded in {seconds:.0f} s, with compiling")
        print(f"  {question}\n    {begun}", end="")
        start, answer = time.perf_counter(), ""
        for piece in engine.stream(
            context, query_ids, max_new_tokens=MAX_NEW_TOKENS, stop=[".", "\n"]
        ):
            print(piece, end="", flush=True)
            answer += piece
        print(f"  [{time.perf_counter() - start:.1f} s]")
        right += wanted in answer
    return right


if __name__ == "__main__":
    sys.exit(main())
