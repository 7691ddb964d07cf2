"""A dialogue about a document: what is encoded of it, and what is encoded next."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

import jax

from star_jax.cache.context import Context
from star_jax.chat.forms import Form
from star_jax.engine import Engine
from star_jax.generate.stopping import StopReason
from star_jax.prefill.steps import Prefilling
from star_jax.runs import drawing, timing
from star_jax.runs.drawing import GenerationConfig

# Runs the steps of phase 1, of which so many tokens were encoded before; it may raise.
Watch = Callable[[Prefilling[Context], int], None]


@dataclasses.dataclass
class Spent:
    """Seconds of running, compiling apart, and for how many tokens; `first` of first tokens."""

    encoded: int = 0
    encoding: float = 0.0
    answers: int = 0
    tokens: int = 0
    first: float = 0.0
    rest: float = 0.0


class Dialogue:
    """A document that is encoded once, and the turns about it, each of which encodes only itself.

    document: the context without turns; context: with them.
    reason: why the last answer has ended; None if it was stopped.
    """

    def __init__(
        self, engine: Engine, document: Context, *, form: Form, generation: GenerationConfig
    ):
        self.engine, self.form = engine, form
        encoded = document.groups[0].encoded[0]
        self.context = document
        self.document = document.prefix(encoded) if document.has_turns else document
        self.spent = Spent()
        self.reason: StopReason | None = None
        self._generation = generation

    @classmethod
    def about(
        cls,
        engine: Engine,
        ids: list[int],
        *,
        form: Form,
        generation: GenerationConfig,
        watch: Watch,
    ) -> "Dialogue":
        """Encodes a document, which `form` has made these ids of."""
        spent = Spent()
        context = _encode(engine.prefilling(ids), watch, spent)
        dialogue = cls(engine, context, form=form, generation=generation)
        dialogue.spent = spent
        return dialogue

    @property
    def turns(self) -> list[int]:
        """The tokens of questions and answers since the document."""
        return self.context.tokens[0][len(self.document.tokens[0]) :]

    def answer(
        self, question: str, *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """Asks, and yields the answer's text as it comes; question and answer are a turn then.

        An answer that is stopped is kept as far as it has come. Where asking fails, or is broken
        off by an exception, the dialogue stays as it was.
        """
        ids = (self.form.next if self.turns else self.form.first)(question)
        how, begin, first = self._generation, _running(), None
        generation = self.engine.start(
            self.context,
            ids,
            max_new_tokens=how.max_new_tokens,
            stop=drawing.stop_words(how.stop),
            ignore_eos=how.ignore_eos,
            sampling=drawing.sampling(how, [self.spent.answers]),
        )
        for event in generation:
            first = first or _running()
            if event.text:
                yield event.text
            if stopped():
                break
        end = _running()
        self.context, self.reason = generation.context, generation.answer.stop_reason
        spent, first = self.spent, first or end
        spent.answers, spent.tokens = (
            spent.answers + 1,
            spent.tokens + len(generation.answer.tokens),
        )
        spent.first, spent.rest = spent.first + first - begin, spent.rest + end - first
        generation.cancel()

    def extend(self, text: str, watch: Watch) -> None:
        """Puts more text behind the document, before the dialogue about it.

        The turns stay: as questions and answers are short, they are put behind the longer
        document as a question is. If `watch` raises, all stays as it was.
        """
        turns = self.turns
        encoding = self.engine.extending(self.document, self.form.more(text))
        document = _encode(encoding, watch, self.spent, before=len(self.document.tokens[0]))
        self.context = self._with(document, turns) if turns else document
        self.document = document

    def forget(self) -> None:
        """Drops the turns."""
        self.context = self.document

    def save(self, path: str | os.PathLike[str]) -> None:
        """Document and turns; see `Context.save`."""
        self.context.save(path)

    @property
    def bytes_per_device(self) -> int:
        """Of keys and values, of document and turns, on the device that has most of them."""
        held: dict[jax.Device, int] = {}
        for array in jax.tree.leaves([group.cache for group in self.context.groups]):
            for shard in array.addressable_shards:
                held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
        return max(held.values())

    def _with(self, document: Context, turns: list[int]) -> Context:
        """The document with these turns behind it; the token that is generated is cut off."""
        generation = self.engine.start(document, turns, max_new_tokens=1, ignore_eos=True)
        generation.finish()
        return generation.context.prefix(len(document.tokens[0]) + len(turns))


def _encode(
    prefilling: Prefilling[Context], watch: Watch, spent: Spent, *, before: int = 0
) -> Context:
    """Runs phase 1, and adds how long it took."""
    begin = _running()
    watch(prefilling, before)
    context = prefilling.finish()
    spent.encoded += prefilling.tokens - before
    spent.encoding += _running() - begin
    return context


def _running() -> float:
    """Seconds of a clock that stands still while anything is compiled."""
    return time.perf_counter() - timing.compiled()
