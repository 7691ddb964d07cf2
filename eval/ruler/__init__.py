"""RULER's thirteen tasks, generated to fit a length.

Templates, distributions and metrics are RULER's (Hsieh et al., 2024, arXiv 2404.06654). There are
three ways to make them, `modes.MODES`. What differs from RULER on purpose in the first, `exact`,
that module says, and each task's own says what concerns it alone.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

from star_jax.eval.ruler.draft import Draft, Request, largest_by
from star_jax.eval.ruler.estimate import Estimate
from star_jax.eval.ruler.modes import MODES, NAMES
from star_jax.eval.ruler.sources import Sources
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Text

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
    "meta-llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}
TASKS = MODES["exact"].tasks


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the samples of one task at one length, each when it is asked for.

    request: of all of them; its index does not count.
    """

    task: str
    mode: str
    request: Request

    def sample(self, index: int) -> Sample:
        """Sample `index`; it depends on nothing but the maker's fields.

        Raises:
          ValueError: a length that holds no haystack, too few keys or questions.
        """
        draft = self._draft(index)
        limit, steps = self.request.length, draft.steps
        if steps is None:
            answers = self.request.count_tokens(" ".join(draft.outputs))
            count, before = self._counter(draft, more=answers), self._before(draft)
            try:
                size, tokens = largest_by(
                    lambda n: self._estimate(before + draft.context(n)),
                    count,
                    limit,
                    least=draft.least,
                    unit=draft.unit,
                )
            except ValueError as error:
                raise ValueError(f"{self.task}, sample {index}: {error}") from None
        else:
            count = self._counter(draft, context_only=steps.context_only)
            size = steps.shrunk(self._size, count, limit, draft)
            tokens = self._counter(draft)(size)
        before = self._before(draft)
        needles = tuple((a + len(before), b + len(before)) for a, b in draft.needles(size))
        context = before + draft.context(size)
        return Sample(index, context, self._query(draft), draft.outputs, needles, tokens)

    def check(self, count: int) -> None:
        """Looks whether the least context of each of the first samples fits.

        Raises:
          ValueError: names the sample that the length is too short for.
        """
        for index in range(count):
            draft = self._draft(index)
            if draft.steps is not None:  # then one size is for all
                return
            limit, answers = self.request.length, " ".join(draft.outputs)
            least = self._before(draft) + draft.context(draft.least) + self._query(draft)
            if len(f"{least}{answers}".encode()) + self.request.max_new_tokens <= limit:
                continue  # no token is less than a byte
            tokens = self._counter(draft, more=self.request.count_tokens(answers))(draft.least)
            if tokens > limit:
                raise ValueError(
                    f"{self.task}, sample {index}: length={limit} is too short: with {draft.least} "
                    f"{draft.unit} there are {tokens} tokens"
                )

    @functools.cached_property
    def _estimate(self) -> Estimate:
        return Estimate(self.request.count_tokens)

    @functools.cached_property
    def _size(self) -> int:
        """What the published scripts find once, with a sample that is none of those asked."""
        draft = self._draft(0, "fit")
        steps = draft.steps
        if steps is None:
            raise ValueError(f"{self.mode=} fits each sample by itself")
        more = self.request.count_tokens(steps.answer) if steps.answer else 0
        count = self._counter(draft, more=more, context_only=steps.context_only)
        try:
            return steps.find(count, self.request.length, draft.unit)
        except ValueError as error:
            raise ValueError(f"{self.task}: {error}") from None

    def _draft(self, index: int, stream: str = "") -> Draft:
        request = dataclasses.replace(self.request, index=index)
        rng = random.Random(f"{self.task} {request.length} {stream or index} {request.seed}")
        return MODES[self.mode].tasks[self.task].draft(rng, request)

    def _before(self, draft: Draft) -> Text:
        return self.request.wrap[0] if draft.before is None else draft.before

    def _query(self, draft: Draft) -> Text:
        return draft.question + self.request.wrap[1] + draft.answer_prefix

    def _counter(
        self, draft: Draft, *, more: int = 0, context_only: bool = False
    ) -> Callable[[int], int]:
        """The tokens of a size: of the context, and of the rest if it counts."""
        count_tokens, before = self.request.count_tokens, self._before(draft)
        if not context_only:
            more += count_tokens(self._query(draft)) + self.request.max_new_tokens
        return lambda size: more + count_tokens(before + draft.context(size))


def maker(task: str, mode: str = "exact", **request: Any) -> Maker:
    """A maker; `request` are the fields of a Request, its index aside.

    Raises:
      ValueError: unknown task or mode.
    """
    if mode not in MODES:
        raise ValueError(f"{mode=} is unknown; known: {sorted(MODES)}")
    if task not in NAMES:
        raise ValueError(f"{task=} is unknown; known: {sorted(NAMES)}")
    return Maker(task, mode, Request(index=0, **request))


def generate(
    task: str,
    *,
    length: int,
    index: int,
    seed: int,
    count_tokens: Callable[[Any], int],
    max_new_tokens: int,
    wrap: tuple[Text, Text],
    keys: Sequence[str] | None,
    sources: Sources | None = None,
) -> Sample:
    """Sample `index` of a task, with as much of its haystack as fits into `length` tokens.

    Counted are context, query, answers and `max_new_tokens`. The sample depends on nothing
    but the arguments, whose fields are a Request's; see there.

    Raises:
      ValueError: unknown task, a length that holds no haystack, too few keys.
    """
    made = maker(
        task,
        length=length,
        seed=seed,
        count_tokens=count_tokens,
        max_new_tokens=max_new_tokens,
        wrap=wrap,
        keys=keys,
        sources=sources or Sources(),
    )
    return made.sample(index)
