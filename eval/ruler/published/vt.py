"""Variable tracking, as published: the solved example has one shape for all samples."""

import dataclasses
import itertools
import random
import string
from collections.abc import Sequence

from star_jax.eval.ruler.draft import Draft, Request, largest
from star_jax.eval.ruler.niah import NOISE
from star_jax.eval.ruler.published.scripts import RULER, STAR, Scripts
from star_jax.eval.ruler.vt import ANSWER_PREFIX, CONTEXT, QUESTION, VARIABLES

_EXAMPLE_TOKENS, _EXAMPLE_STEP = 500, 5


@dataclasses.dataclass(frozen=True)
class Wording:
    """Where the two sets of scripts differ.

    assigned: how the answer's prefix spells it. line, join: what noise ends in, and what stands
      between two lines. value_moves: the example's value is drawn for each sample; else it is one
      for all. around: what stands before the example and after it.
    flattens: with a chat template, the example's first lines are one, and its question lacks its
      last word. counted: tokens that the example's size leaves room for besides.
    """

    scripts: Scripts
    assigned: str
    line: str
    join: str
    value_moves: bool
    around: tuple[str, str]
    flattens: bool
    counted: int


OF_RULER = Wording(
    RULER,
    assigned="assigned",
    line=NOISE,
    join="\n",
    value_moves=True,
    around=("", "\n\n"),
    flattens=False,
    counted=0,
)
OF_STAR = Wording(
    STAR,
    assigned="assgined",
    line=NOISE + "\n",
    join=" ",
    value_moves=False,
    around=(" ", "\n\n\n\n"),
    flattens=True,
    counted=30,
)


def draft(rng: random.Random, request: Request, *, wording: Wording) -> Draft:
    """A solved example, then one chain: five variables, the first given a value."""
    value, outputs = rng.randrange(10000, 99999), _names(rng, 5)
    example = _example(rng, request, wording)
    order, is_linear = rng.random(), wording.scripts.is_linear
    step = 10 if request.length >= 4096 or is_linear else 5
    return Draft(
        question=QUESTION.format(value=value),
        answer_prefix=_prefix(wording).format(count=VARIABLES, value=value),
        outputs=tuple(outputs),
        context=lambda n: example + CONTEXT.format(lines=_lines(n, order, outputs, value, wording)),
        least=VARIABLES + is_linear,  # below it the scripts do something else, or never end
        unit="lines of noise",
        steps=wording.scripts.steps(step, answer=f" {outputs}"),
    )


def _prefix(wording: Wording) -> str:
    return ANSWER_PREFIX.replace("assigned", wording.assigned)


def _names(rng: random.Random, letters: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < VARIABLES:
        found["".join(rng.choices(string.ascii_uppercase, k=letters))] = None
    return list(found)


def _lines(n: int, order: float, names: Sequence[str], value: int, wording: Wording) -> str:
    """So many lines of noise, with the chain among them, no two of its links side by side."""
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {giver} " for giver, name in itertools.pairwise(names)]
    at = sorted(random.Random(f"{order} {n}").sample(range(n), len(chain)))
    lines = [wording.line] * n
    for i, (place, link) in enumerate(zip(at, chain, strict=True)):
        lines.insert(place + i, link)
    return wording.join.join(lines)


def _example(rng: random.Random, request: Request, wording: Wording) -> str:
    """The example: its size and the places of its links are the seed's, its names the sample's.

    Raises:
      ValueError: it has no room. The scripts would try for ever.
    """
    shape = random.Random(f"vt example {request.length} {request.seed}")
    first_value, first_names, order = (
        shape.randrange(10000, 99999),
        _names(shape, 3),
        shape.random(),
    )
    names, other_value = _names(rng, 3), rng.randrange(10000, 99999)
    context, question, is_linear = CONTEXT, QUESTION, wording.scripts.is_linear
    if wording.flattens and request.wrap[0]:
        context = " ".join(CONTEXT.split()) + " "
        question = QUESTION.rpartition(" ")[0]
    question += _prefix(wording)

    def text(n: int, names: Sequence[str], value: int) -> str:
        lines = _lines(n, order, names, value, wording)
        return context.format(lines=lines) + question.format(count=VARIABLES, value=value)

    first, step = (10, 5) if is_linear else (VARIABLES, 1)

    def count(k: int) -> int:
        answer = f" {first_names}" if is_linear else ""
        tokens = request.count_tokens(text(first + step * k, first_names, first_value) + answer)
        return tokens + wording.counted

    if count(0) > _EXAMPLE_TOKENS:
        raise ValueError(
            f"vt's solved example of the published scripts has {count(0)} tokens with {first} "
            f"lines of noise, and may have {_EXAMPLE_TOKENS}: data.compat=exact fits it to the "
            "tokenizer"
        )
    size = first + step * largest(count, _EXAMPLE_TOKENS, least=0)[0]
    before, after = wording.around
    value = other_value if wording.value_moves else first_value
    return before + text(size, names, value) + " " + " ".join(names) + after
