"""Stories of small worlds, told among the sentences of prose: BABILong's form, made here."""

import itertools
import random

from star_jax.eval.babilong import prompts, prose, worlds
from star_jax.eval.fitting import Frame, fit
from star_jax.eval.ruler.draft import Draft
from star_jax.runs.sample import Sample

TASKS = tuple(worlds.WORLDS)


def generate(task: str, index: int, *, seed: int, frame: Frame) -> Sample:
    """Sample `index` of a task, with as much prose as fits the frame's length.

    The facts stand in their order, in gaps between sentences that are drawn; they take half of
    the length at most. The sample depends on nothing but the arguments.

    Raises:
      ValueError: a length that does not hold the shortest story.
    """
    rng = random.Random(f"babilong {task} {frame.length} {index} {seed}")
    world = worlds.WORLDS[task]
    head, tail = prompts.head(task), prompts.TAIL
    room = frame.length - frame.count(frame.before + head + tail, "")
    each = frame.tokenizer.count(" Sandra went back to the bathroom.")
    most = max(world.least, min(world.most, room // 2 // each))
    story = worlds.draw(task, rng, rng.randint(world.least, most))
    depths = sorted(rng.random() for _ in story.facts)
    stream = prose.sentences(rng)
    lines: list[str] = []  # grows from the stream as the fit asks for more

    def told(size: int) -> tuple[str, list[tuple[int, int]]]:
        """So many sentences with the facts among them, and where those of the answer stand."""
        lines.extend(itertools.islice(stream, max(0, size - len(lines))))
        parts, spans, end, above = [], [], 0, 0
        for i, (depth, fact) in enumerate(zip(depths, story.facts, strict=True)):
            gap = int(depth * (size + 1))
            parts += [*lines[above:gap], fact]
            end += sum(len(line) + 1 for line in lines[above:gap]) + len(fact) + 1
            spans += [(end - 1 - len(fact), end - 1)] if i in story.support else []
            above = gap
        return " ".join(parts + lines[above:size]), spans

    draft = Draft(
        question=prompts.QUESTION.format(question=story.question),
        answer_prefix="",
        outputs=(story.answer,),
        context=lambda size: head + told(size)[0] + tail,
        needles=lambda size: [(len(head) + a, len(head) + b) for a, b in told(size)[1]],
        least=0,
        unit="sentences of prose",
    )
    return fit(draft, index, frame, {"task": task, "question": story.question})
