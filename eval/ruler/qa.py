"""Questions about documents: qa_1 from SQuAD, qa_2 from HotpotQA.

Question i of the file is sample i, as in RULER. On purpose different: documents are shuffled for
each sample anew, so that the place of those with the answer varies; and what is repeated where
the file is too short are the documents that came for length alone.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.ruler.draft import Draft, Request
from star_jax.eval.ruler.questions import Question, Questions

CONTEXT = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\nThe following are given documents.\n\n{documents}\n\n"
)
QUESTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\nQuestion: {question}"
)
ANSWER_PREFIX = " Answer:"


def draft(rng: random.Random, request: Request, *, file: str) -> Draft:
    """The question's documents, then others of its article, then any."""
    found, question = chosen(request, file)
    order, more = rng.random(), rng.sample(question.more, len(question.more))
    held = (*question.given, *question.more)
    stream = itertools.chain(question.given, more, _others(rng, len(found.documents), held))
    numbers: list[int] = []  # grows from the stream as the fit asks for more

    def placed(n: int) -> list[int]:
        numbers.extend(itertools.islice(stream, max(0, n - len(numbers))))
        return random.Random(f"{order} {n}").sample(numbers[:n], n)

    return of_documents(found, question, placed)


def chosen(request: Request, file: str) -> tuple[Questions, Question]:
    """The file's content, and the question of this sample."""
    found: Questions | None = getattr(request.sources, file)
    if found is None:
        raise ValueError(f"this task asks about the documents of {file}, and sources has none")
    if request.index >= len(found.questions):
        raise ValueError(
            f"{file} has {len(found.questions)} questions with answers, and sample "
            f"{request.index + 1} is asked for: lower data.num_samples"
        )
    return found, found.questions[request.index]


def of_documents(
    found: Questions, question: Question, placed: Callable[[int], Sequence[int]]
) -> Draft:
    """placed: of a size, the numbers of the documents in order; beyond the last they begin anew."""
    head, tail = CONTEXT.split("{documents}")
    documents = found.documents

    def pieces(n: int) -> Iterator[tuple[int, str, str]]:
        for i, number in enumerate(placed(n), 1):
            number %= len(documents)
            yield number, f"Document {i}:\n", documents[number]

    def context(n: int) -> str:
        return head + "\n\n".join(title + text for _, title, text in pieces(n)) + tail

    def spans(n: int) -> list[tuple[int, int]]:
        at, where = len(head), []
        for number, title, text in pieces(n):
            at += len(title)
            where += [(at + a, at + b) for a, b in question.answers.get(number, ())]
            at += len(text) + len("\n\n")
        return where

    return Draft(
        question=QUESTION.format(question=question.text),
        answer_prefix=ANSWER_PREFIX,
        outputs=question.outputs,
        context=context,
        needles=spans,
        least=len(question.given),
        unit="documents",
    )


def _others(rng: random.Random, count: int, held: Sequence[int]) -> Iterator[int]:
    """All other documents in random order, again and again."""
    others = sorted(set(range(count)) - set(held))
    if not others:
        raise ValueError(f"the file has no documents beside the {count} of one question")
    while True:
        yield from rng.sample(others, len(others))
