"""What the scheduler is given to do, and what becomes of it."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Hashable

import jax
import numpy as np

from star_jax.cache.context import Context
from star_jax.generate.sampling import Sampling
from star_jax.generate.stopping import Event
from star_jax.serve.errors import Problem


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the encoding of a prompt's context is, in tokens."""

    done: int
    whole: int


Update = Event | Progress | Problem  # the index of an event is that of the sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """One prompt, and how it is to be answered.

    tokens: of the whole prompt. samples: how many answers. sampling: its seed is one, or None.
    streamed: the client reads along. key: `prompt_cache_key`: those of one key have a beginning in
    common, see `scheduler`.
    """

    tokens: list[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    sampling: Sampling
    samples: int = 1
    streamed: bool = False
    key: str | None = None

    @property
    def how(self) -> Hashable:
        """What is the same for all answers of a batch."""
        alike = dataclasses.replace(self.sampling, seed=None)
        return self.stop, self.ignore_eos, alike, self.samples


class Job:
    """An `Ask` on its way through the scheduler, in whose thread all but `cancel` is called.

    tell: is given each `Update`. An answer's last event has its stop reason; after a `Problem`
    nothing comes.
    context_tokens: how many tokens of the prompt are its context; the others are the query.
    cached: tokens whose keys and values were there already.
    """

    def __init__(self, ask: Ask, tell: Callable[[Update], None], *, context: int):
        self.ask = ask
        self.context_tokens = context
        self.ids = np.asarray(ask.tokens[:context], np.int32)  # of the context
        self.cached = 0
        self.context: Context | None = None  # when it is there
        self.held: dict[int, int] = {}  # by what was found, see `held`
        self.is_new = True  # nobody has looked for its context
        self.left = ask.samples  # answers that go on
        self.arrived = time.monotonic()
        self.begun: float | None = None  # when the devices began with it
        self.first: float | None = None  # when its first token was there
        self.last: dict[int, float] = {}  # when the latest tokens of each answer were
        self.made = 0  # tokens
        self._tell = tell
        self._gone = threading.Event()

    @property
    def query_tokens(self) -> int:
        return len(self.ask.tokens) - self.context_tokens

    def found(self, context: Context) -> None:
        """This is its context; it may be a part of what was asked for, and the query is longer."""
        self.context_tokens = self.cached = len(context.tokens[0])
        self.ids = self.ids[: self.context_tokens]
        self.context, self.held = context, held(context)

    def cancel(self) -> None:
        """Nobody waits for it any more. Any thread may say so."""
        self._gone.set()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    def tell(self, update: Update) -> None:
        """Tells whoever waits, if there is anyone."""
        if not self.is_gone:
            self._tell(update)


def held(context: Context) -> dict[int, int]:
    """The arrays of a context, by their ids, and the bytes that each takes on every device."""
    arrays = jax.tree.leaves([group.cache for group in context.groups])
    return {id(x): math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays}
