"""Variable tracking: one chain of five variables, hidden in noise.

On purpose different from RULER: a line is one assignment, with no space at its end; the
example's question is whole; its names and value are none of the question's; no name occurs in
the task's text; and below 2000 tokens the example has at most a quarter of the length, and at
least its chain, where RULER always gives it up to 500 tokens.
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.ruler.draft import Draft, Request, largest
from star_jax.eval.ruler.niah import NOISE

CONTEXT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{lines}\n"
)
QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
ANSWER_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} "
    "variables are assigned the value {value}, they are: "
)
VARIABLES = 5
_EXAMPLE_TOKENS, _EXAMPLE_STEP = 500, 5


def draft(rng: random.Random, request: Request) -> Draft:
    """A solved example, then one chain: five variables, the first given a value."""
    value, other_value = rng.sample(range(10000, 99999), 2)
    text = (CONTEXT + QUESTION + ANSWER_PREFIX + NOISE).upper() + " VAR "
    outputs = tuple(_names(rng, letters=5, apart_from=text))
    others = tuple(_names(rng, letters=3, apart_from=text + " ".join(outputs)))
    question, answer_prefix = _ask(value)
    example = _example(rng, others, other_value, request=request)
    body = _chain(rng, outputs, value)
    return Draft(
        question=question,
        answer_prefix=answer_prefix,
        outputs=outputs,
        context=lambda n: example + body(n),
        least=1,
        unit="lines of noise",
    )


def _names(rng: random.Random, *, letters: int, apart_from: str) -> Iterator[str]:
    """Distinct names that do not occur in a text."""
    seen: set[str] = set()
    while len(seen) < VARIABLES:
        name = "".join(rng.choices(string.ascii_uppercase, k=letters))
        if name not in seen and name not in apart_from:
            seen.add(name)
            yield name


def _ask(value: int) -> tuple[str, str]:
    return QUESTION.format(value=value), ANSWER_PREFIX.format(count=VARIABLES, value=value)


def _chain(rng: random.Random, names: Sequence[str], value: int) -> Callable[[int], str]:
    """A text of so many lines of noise, with the chain among them in its order."""
    givers = [str(value), *(f"VAR {name}" for name in names[:-1])]
    chain = [f"VAR {name} = {giver}" for name, giver in zip(names, givers, strict=True)]
    depths = sorted(rng.random() for _ in chain)

    def text(n: int) -> str:
        lines, above = [], 0
        for depth, assignment in zip(depths, chain, strict=True):
            cut = int(depth * (n + 1))
            lines += [NOISE] * (cut - above) + [assignment]
            above = cut
        return CONTEXT.format(lines="\n".join(lines + [NOISE] * (n - above)))

    return text


def _example(
    rng: random.Random,
    names: Sequence[str],
    value: int,
    *,
    request: Request,
) -> str:
    budget = min(_EXAMPLE_TOKENS, request.length // 4)
    step = _EXAMPLE_STEP if budget == _EXAMPLE_TOKENS else 1
    answer = "".join(_ask(value)) + " ".join(names) + "\n\n"
    text = _chain(rng, names, value)

    def count(n: int) -> int:
        return request.count_tokens(text(step * n) + answer)

    if count(0) > budget:
        return text(0) + answer
    return text(step * largest(count, budget, least=0)[0]) + answer
