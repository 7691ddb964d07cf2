"""InfiniteBench's synthetic tasks, made here to fit a length.

On purpose different: every sample has its own random stream, and answers stand at any depth. The
numbers of Math.Find come from a range of the sample's own: in a long list of all numbers from 0
to 99 the largest would always be 99. Largest and smallest three occur once each. Functions of
Code.Run that are asked about stand among others that are not.
"""

import itertools
import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence

from star_jax.eval.fitting import Frame, fit
from star_jax.eval.infinitebench.tasks import TASKS as ALL
from star_jax.eval.infinitebench.tasks import ask
from star_jax.eval.ruler.draft import Draft
from star_jax.eval.ruler.niah import NOISE
from star_jax.runs.sample import Sample

_KEY = "The pass key is {key}. Remember it. {key} is the pass key."
_DIGITS = "The sequence of digits is {key}. Remember it. {key} is the sequence of digits."
_VALUE = 'Key: "{key}"\nThe value associated with the specified key is:'
_FIND = "You should answer with only one number, no other words. The {which} number of the list is:"
_RANKS = (
    *("largest", "second largest", "third largest"),
    *("smallest", "second smallest", "third smallest"),
)


class _Made:
    """A context of a size, and where in it the answer stands; the question and the answer.

    least: the smallest size. unit: what the size counts.
    """

    def __init__(
        self,
        asked: str,
        answer: str,
        text: Callable[[int], tuple[str, Sequence[tuple[int, int]]]],
        *,
        unit: str,
        least: int = 1,
    ):
        self.asked, self.answer, self.text, self.unit, self.least = asked, answer, text, unit, least


def generate(task: str, index: int, *, seed: int, frame: Frame) -> Sample:
    """Sample `index` of a task, with as much around its answer as fits the frame's length.

    Raises:
      ValueError: a length that does not hold the shortest.
    """
    rng = random.Random(f"infinitebench {task} {frame.length} {index} {seed}")
    made = _MAKERS[task](rng)
    asked = ask(task, {"input": made.asked, "answer": made.answer})
    draft = Draft(
        question=asked.question,
        answer_prefix=asked.answer_prefix,
        outputs=asked.outputs,
        context=lambda size: asked.head + made.text(size)[0] + "\n\n",
        needles=lambda size: [
            (a + len(asked.head), b + len(asked.head)) for a, b in made.text(size)[1]
        ],
        least=made.least,
        unit=made.unit,
    )
    return fit(draft, index, frame)


def _hidden(rng: random.Random, sentence: str, key: str, asked: str) -> _Made:
    """A sentence among lines of noise."""
    needle, depth = sentence.format(key=key), rng.random()

    def text(lines: int) -> tuple[str, Sequence[tuple[int, int]]]:
        above = f"{NOISE}\n" * int(depth * (lines + 1))
        below = f"\n{NOISE}" * (lines - int(depth * (lines + 1)))
        return above + needle + below, [(len(above), len(above) + len(needle))]

    return _Made(asked, key, text, unit="lines of noise", least=0)


def _passkey(rng: random.Random) -> _Made:
    key = f"{rng.randrange(10**5):05}"
    return _hidden(rng, _KEY, key, "What is the pass key?")


def _number_string(rng: random.Random) -> _Made:
    """Five digits, five times one of what is there already is put beside itself."""
    digits = [str(rng.randrange(10)) for _ in range(5)]
    for _ in range(5):
        at = rng.randrange(len(digits))
        digits.insert(at, digits[at])
    return _hidden(rng, _DIGITS, "".join(digits), "What is the sequence of digits?")


def _kv_retrieval(rng: random.Random) -> _Made:
    depth = rng.random()
    stream = _pairs(rng)
    pairs = [next(stream)]
    key, value = pairs[0]

    def text(size: int) -> tuple[str, Sequence[tuple[int, int]]]:
        pairs.extend(itertools.islice(stream, max(0, size - len(pairs))))
        at = int(depth * size)
        parts = [json.dumps(a) + ": " + json.dumps(b) for a, b in pairs[:size]]
        parts.insert(at, parts.pop(0))
        begin = "JSON data:\n{" + "".join(part + ", " for part in parts[:at])
        whole = begin + ", ".join(parts[at:]) + "}"
        return whole, [(len(begin), len(begin) + len(parts[at]))]

    return _Made(_VALUE.format(key=key), value, text, unit="pairs")


def _pairs(rng: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        key, value = (str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2))
        yield key, value


def _math_find(rng: random.Random) -> _Made:
    low, high = rng.randint(0, 39), rng.randint(60, 99)
    rank = rng.randrange(len(_RANKS))
    ends = [high, high - 1 - rng.randrange(3), high - 5, low, low + 1 + rng.randrange(3), low + 5]
    depths = [rng.random() for _ in ends]
    numbers: list[int] = []

    def text(size: int) -> tuple[str, Sequence[tuple[int, int]]]:
        while len(numbers) < size:
            numbers.append(rng.randint(low + 6, high - 6))
        placed = sorted(
            (int(depth * (size + 1)), end) for depth, end in zip(depths, ends, strict=True)
        )
        whole, before = [], 0
        for at, end in placed:
            whole += [*numbers[before:at], end]
            before = at
        whole += numbers[before:size]
        start = 1 + sum(len(str(n)) + 2 for n in whole[: whole.index(ends[rank])])
        return str(whole), [(start, start + len(str(ends[rank])))]

    return _Made(_FIND.format(which=_RANKS[rank]), str(ends[rank]), text, unit="numbers", least=0)


def _code_run(rng: random.Random) -> _Made:
    """A chain of two to ten functions among others, each of which calls the next one."""
    stream = _names(rng)
    chain = list(itertools.islice(stream, rng.randint(2, 10)))
    given, steps = rng.randint(-100, 100), [rng.randint(-10, 10) for _ in chain]
    bodies = [_function(*each) for each in zip(chain, [*chain[1:], ""], steps, strict=True)]
    order = rng.sample(range(len(chain)), len(chain))
    depths = sorted(rng.random() for _ in chain)
    names: list[str] = []
    others: list[str] = []

    def text(size: int) -> tuple[str, Sequence[tuple[int, int]]]:
        while len(others) < size:
            called = rng.choice(names) if names and rng.random() < 0.8 else ""
            names.append(next(stream))
            others.append(_function(names[-1], called, rng.randint(-10, 10)))
        whole, spans, above = "", [], 0
        for depth, which in zip(depths, order, strict=True):
            gap = int(depth * (size + 1))
            whole += "".join(others[above:gap])
            spans.append((len(whole), len(whole) + len(bodies[which].rstrip())))
            whole, above = whole + bodies[which], gap
        return (whole + "".join(others[above:size])).rstrip(), spans

    asked = f"What is the value of {chain[0]}({given})?"
    return _Made(asked, str(given + sum(steps)), text, unit="other functions", least=0)


def _names(rng: random.Random) -> Iterator[str]:
    """Names of functions, each once."""
    seen: set[int] = set()
    while True:
        number = rng.randrange(10 ** (3 + len(seen) // 500))
        if number not in seen:
            seen.add(number)
            yield f"func_{number}"


def _function(name: str, called: str, step: int) -> str:
    changed = f"x {'-' if step < 0 else '+'} {abs(step)}"
    return f"def {name}(x):\n    return {f'{called}({changed})' if called else changed}\n\n"


_MAKERS: dict[str, Callable[[random.Random], _Made]] = {
    "passkey": _passkey,
    "number_string": _number_string,
    "kv_retrieval": _kv_retrieval,
    "math_find": _math_find,
    "code_run": _code_run,
}
TASKS = tuple(name for name in ALL if name in _MAKERS)
