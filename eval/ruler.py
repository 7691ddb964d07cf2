"""RULER's needle tasks, generated to fit a length: niah_single_1 and niah_multikey_2.

Templates, distributions and metric are RULER's (Hsieh et al., 2024, arXiv 2404.06654).
On purpose different: every sample has its own random stream, so that sample i is the same
however many are drawn and the needle's depth varies; every sample is fitted by itself, to
one line; keys within a sample are distinct; and the rewriting to the singular is applied
to the task's text only, not to the chat template around it.
"""

import dataclasses
import functools
import importlib.resources
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.metrics import string_match_all
from star_jax.eval.sample import Sample

CONTEXT = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n{lines}\n"
)
QUESTION = "What is the special magic number for {key} mentioned in the provided text?"
ANSWER_PREFIX = " The special magic number for {key} mentioned in the provided text is"
NEEDLE = "One of the special magic numbers for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# What stands before the context, and between the question and the answer's prefix.
TEMPLATES: dict[str, tuple[str, str]] = {
    "base": ("", ""),
    "llama3": (
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "You are a helpful assistant.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        ),
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A RULER task: its haystack, "noise" or "needles", its answer's length, its metric."""

    haystack: str
    max_new_tokens: int
    metric: Callable[[str, Sequence[str]], float]


TASKS: dict[str, Task] = {
    "niah_single_1": Task("noise", 128, string_match_all),
    "niah_multikey_2": Task("needles", 128, string_match_all),
}


def generate(
    task: str,
    *,
    length: int,
    index: int,
    seed: int,
    count_tokens: Callable[[str], int],
    max_new_tokens: int,
    template: str,
    keys: Sequence[str] | None,
) -> Sample:
    """Sample `index` of a task, with as many lines of haystack as fit into `length` tokens.

    Counted are context, query, answer and `max_new_tokens`. The sample depends on nothing
    but the arguments. `keys` are the words to draw keys from; None: RULER's, an adjective
    and a noun of wonderwords. `template` is one of `TEMPLATES`.

    Raises:
      ValueError: unknown task or template, a length that holds no line, too few keys.
    """
    if task not in TASKS:
        raise ValueError(f"{task=} is unknown; known: {sorted(TASKS)}")
    if template not in TEMPLATES:
        raise ValueError(f"{template=} is unknown; known: {sorted(TEMPLATES)}")
    rng = random.Random(f"{task} {length} {index} {seed}")
    words = _distinct_keys(rng, keys)
    key, value, depth = next(words), _number(rng), rng.random()
    needle = NEEDLE.format(key=key, value=value)
    stream = itertools.repeat(NOISE) if TASKS[task].haystack == "noise" else _needles(rng, words)
    haystack: list[str] = []  # grows from the stream as the fit asks for more lines
    before, between = TEMPLATES[template]
    query = QUESTION.format(key=key) + between + ANSWER_PREFIX.format(key=key)

    def build(n: int) -> tuple[str, tuple[int, int]]:
        haystack.extend(itertools.islice(stream, max(0, n - len(haystack))))
        if len(haystack) < n:
            raise ValueError(
                f"{len(keys or ())} keys are too few for {task} at {length=}: give more, or None"
            )
        cut = int(depth * n)
        above = "".join(line + "\n" for line in haystack[:cut])
        below = "".join("\n" + line for line in haystack[cut:n])
        head, tail = (before + CONTEXT).split("{lines}")
        start = len(head) + len(above)
        return head + above + needle + below + tail, (start, start + len(needle))

    fixed = count_tokens(query) + count_tokens(value) + max_new_tokens
    lines, tokens = _most_lines(lambda n: fixed + count_tokens(build(n)[0]), length)
    context, span = build(lines)
    return Sample(index, context, query, (value,), span, tokens)


def _number(rng: random.Random) -> str:
    return str(rng.randint(10**6, 10**7 - 1))


def _needles(rng: random.Random, keys: Iterator[str]) -> Iterator[str]:
    return (NEEDLE.format(key=key, value=_number(rng)) for key in keys)


def _distinct_keys(rng: random.Random, keys: Sequence[str] | None) -> Iterator[str]:
    """Draws keys without replacement: the asked key must stand in one line only."""
    if keys is not None:
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"{len(keys)} keys, {len(set(keys))} of them distinct: none, or twice")
        yield from rng.sample(list(keys), len(keys))
        return
    adjectives, nouns = _wonderwords()
    seen: set[str] = set()
    while True:
        key = f"{rng.choice(adjectives)}-{rng.choice(nouns)}"
        if key not in seen:
            seen.add(key)
            yield key


@functools.cache
def _wonderwords() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The adjectives and nouns that the wonderwords package ships."""
    assets = importlib.resources.files("wonderwords") / "assets"

    def read(name: str) -> tuple[str, ...]:
        return tuple(sorted(set((assets / name).read_text(encoding="utf-8").split("\n")) - {""}))

    return read("adjectivelist.txt"), read("nounlist.txt")


def _most_lines(count: Callable[[int], int], limit: int) -> tuple[int, int]:
    """The largest n >= 1 with count(n) <= limit, and that count.

    Interpolates: counting is tokenising the whole context, and lines are about equally long.
    """
    first = best = count(1)
    if first > limit:
        raise ValueError(f"length={limit} is too short: with one line there are {first} tokens")
    low, high, per_line = 1, None, 20.0
    while high is None or high - low > 1:
        n = low + max(1, int((limit - best) / per_line))
        n = n if high is None else min(n, high - 1)
        tokens = count(n)
        per_line = max(1.0, (tokens - first) / (n - 1))
        if tokens <= limit:
            low, best = n, tokens
        else:
            high = n
    return low, best
