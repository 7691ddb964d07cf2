"""Questions about documents, as published: one order of the documents for all samples."""

import dataclasses
import random

from star_jax.eval.ruler import qa
from star_jax.eval.ruler.draft import Draft, Request
from star_jax.eval.ruler.published.scripts import Scripts, shuffled

_STEP = 10  # documents
_SQUAD_COPIES = 5  # of all documents, where nothing is repeated


def draft(rng: random.Random, request: Request, *, scripts: Scripts, file: str) -> Draft:
    """The question's documents, then others of its article, then any; see `qa.draft`."""
    found, question = qa.chosen(request, file)
    copies = _SQUAD_COPIES if file == "squad" and not scripts.repeats else 1
    count = copies * len(found.documents)
    given, more = list(question.given), list(question.more)
    held = {*given, *more}
    left = [i for i in range(count) if i not in held]
    others = rng.sample(left, len(left))
    some = rng.sample(more, len(more))

    def placed(n: int) -> list[int]:
        if n >= count:
            numbers = [i % count for i in range(n if scripts.repeats else count)]
        elif n - len(given) > len(more):
            numbers = given + more + others[: n - len(given) - len(more)]
        else:
            numbers = given + some[: n - len(given)]
        return shuffled(numbers, request.seed)

    drafted = qa.of_documents(found, question, placed)
    steps = scripts.steps(
        _STEP,
        answer=str(list(drafted.outputs)),  # a list, as Python writes it
        most=None if scripts.repeats else count,
    )
    return dataclasses.replace(drafted, steps=steps)
