"""What the devices do next: one thread, that alone uses the engine, goes round.

In each round new requests are sorted, those whose context is there are asked, every batch under
way goes on by a stride, and one wave of one long context is encoded. So nobody waits for a whole
context of somebody else's, and a short request gets its first token within a round or two.

A prompt whose context is being encoded for another waits for it. So does one that shares half of
its context with one that is being encoded, or, where both have the same `prompt_cache_key`, any
part that is worth it: what is shared is encoded once.
"""

import collections
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from star_jax.cache.context import Context
from star_jax.cache.sharded import bucket
from star_jax.engine import Engine
from star_jax.serve.batch import Batch
from star_jax.serve.encoding import Encoding
from star_jax.serve.errors import Problem, failed, overloaded, refused, timed_out
from star_jax.serve.jobs import Ask, Job, Progress, Update
from star_jax.serve.metrics import Metrics
from star_jax.serve.splitting import SHORT, context_tokens
from star_jax.store import Store

ENCODINGS = 2  # contexts that are encoded in turn: each takes its memory from the first wave on
ASKED = 2**14  # tokens of queries that are asked at once, with padding
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes.

    waiting: prompts that have no first token yet. answers: under way at once. query: tokens at a
    prompt's end that are asked exactly, see `splitting`. seconds: for a request, with its queue.
    stored: bytes of contexts that the store may have on each device.
    """

    waiting: int
    answers: int
    query: int
    seconds: float
    stored: int


class Scheduler:
    """Answers jobs, in `run`, which one thread calls; `submit` and `close` are for the others."""

    def __init__(self, engine: Engine, store: Store, *, limits: Limits, metrics: Metrics):
        self.limits, self.metrics = limits, metrics
        self.waves = 0  # of long contexts, encoded so far
        self._engine, self._store = engine, store
        self._nothing = engine.prefill([0]).cut(0)  # what short prompts are asked of
        self._wake = threading.Condition()
        self._inbox: collections.deque[Job] = collections.deque()
        self._pending: set[Job] = set()
        self._closed = False
        self._waiting: list[Job] = []  # for a context that nobody encodes yet
        self._ready: list[Job] = []  # their context is there
        self._encodings: collections.deque[Encoding] = collections.deque()
        self._batches: list[Batch] = []

    def submit(self, asks: Sequence[Ask], tell: Callable[[int, Update], None]) -> list[Job]:
        """Takes all of the prompts, or none; `tell` is given the number of each and its updates.

        Raises:
          Problem: too many wait, or the server is about to end, or they would never have room.
        """
        if len(asks) > self.limits.waiting:
            raise refused(f"{len(asks)} prompts are more than {self.limits.waiting}", "prompt")
        jobs = [self._job(ask, i, tell) for i, ask in enumerate(asks)]
        with self._wake:
            if self._closed:
                raise overloaded("the server is about to end")
            if len(self._pending) + len(jobs) > self.limits.waiting:
                raise overloaded(f"{len(self._pending)} prompts wait already; come again later")
            self._pending.update(jobs)
            self._inbox.extend(jobs)
            self._wake.notify()
        return jobs

    def close(self) -> None:
        """Takes no more jobs; `run` returns when those that it has are done."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def run(self) -> None:
        """Answers jobs until it is closed and all are done."""
        while self._take():
            self._drop()
            self._encode()
            self._ask()
            self._stride()
            self._wave()
            self._count()

    def _job(self, ask: Ask, number: int, tell: Callable[[int, Update], None]) -> Job:
        size = context_tokens(len(ask.tokens), query=self.limits.query)
        return Job(ask, lambda update: tell(number, update), context=size)

    def _take(self) -> bool:
        """Takes what has come, and waits if there is nothing to do; whether to go on."""
        with self._wake:
            while not (self._inbox or self._is_busy or self._closed):
                self._wake.wait()
            jobs = list(self._inbox)
            self._inbox.clear()
            ends = self._closed
        for job in jobs:
            if job.context_tokens:
                self._waiting.append(job)
            else:
                job.context = self._nothing
                self._ready.append(job)
        return self._is_busy or not ends

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._ready or self._encodings or self._batches)

    def _drop(self) -> None:
        """Lets go of jobs that nobody waits for, or that took too long."""
        late = time.monotonic() - self.limits.seconds

        def is_over(job: Job) -> bool:
            if job.arrived < late:
                self._fail([job], timed_out(self.limits.seconds))
            return job.is_gone

        for jobs in (self._waiting, self._ready):
            over = [job for job in jobs if is_over(job)]
            self._leave(over)
            jobs[:] = [job for job in jobs if job not in over]
        for encoding in list(self._encodings):
            if is_over(encoding.job) and not any(self._waits(j, encoding) for j in self._waiting):
                self._encodings.remove(encoding)
                self._leave([encoding.job])
        for batch in self._batches:
            for job in batch.jobs:
                if job.left and is_over(job):
                    batch.drop(job)
        self._batches = [batch for batch in self._batches if not batch.has_ended]

    def _find(self, job: Job) -> Context | None:
        """Gives the job its context, if it is stored; or else returns what can be extended."""
        found = self._store.find(job.ids, least=self.limits.query)
        if found is None:
            return None
        known, is_exact = len(found.tokens[0]), self._engine.attention.is_exact
        rest = len(job.ask.tokens) - known
        if known == job.context_tokens or (is_exact and rest < SHORT * self.limits.query):
            job.found(found)
        return None if is_exact else found  # exact attention would encode all of it anew

    def _encode(self) -> None:
        """Looks for contexts that are stored, and begins with others."""
        held = self._held() if self._waiting else {}
        size = sum(held.values())  # of contexts in use, on each device
        for job in list(self._waiting):
            if size >= self.limits.stored:
                return  # no more are brought to the devices
            if any(self._waits(job, encoding) for encoding in self._encodings):
                continue  # then it will be found, or a part of it
            if job.is_new or len(self._encodings) < ENCODINGS:
                self._waiting.remove(job)
                with self._failing([job]):
                    self._look(job)
                new = {key: many for key, many in job.held.items() if key not in held}
                size += sum(new.values())
                held |= new

    def _held(self) -> dict[int, int]:
        """The arrays of all contexts in use, see `jobs.held`."""
        held: dict[int, int] = {}
        for arrays in (*(job.held for job in self._ready), *(b.held for b in self._batches)):
            held |= arrays
        return held

    def _look(self, job: Job) -> None:
        """Makes the job ready, if its context is stored; or else begins with it, if it may."""
        job.is_new = False
        found = self._find(job)
        if job.context is not None:
            self._ready.append(job)
        elif len(self._encodings) < ENCODINGS:
            job.begun = time.monotonic()
            self._encodings.append(Encoding(self._engine, job, found))
        else:
            self._waiting.append(job)

    def _waits(self, job: Job, encoding: Encoding) -> bool:
        shared = encoding.shared(job)
        is_tagged = job.ask.key is not None and job.ask.key == encoding.key
        return shared >= (self.limits.query if is_tagged else job.context_tokens / 2)

    def _wave(self) -> None:
        """Encodes a wave of one context; the next one is then another's."""
        if not self._encodings:
            return
        encoding = self._encodings.popleft()
        with self._failing([encoding.job]):
            done = encoding.step()
            self.waves += 1
            self.metrics.waves.inc()
            for job in (encoding.job, *self._waiting):
                if job.ask.streamed and self._waits(job, encoding):
                    job.tell(Progress(done, len(encoding.ids)))
            if done == len(encoding.ids):
                self._finish(encoding)
            else:
                self._encodings.append(encoding)

    def _finish(self, encoding: Encoding) -> None:
        """Hands the context to all jobs that need no more than it."""
        context, first = encoding.context, encoding.job
        self._store.add(context)
        # If what is known was a whole context, the new one serves in its place, where it is kept.
        if encoding.known and encoding.ids in self._store:
            self._store.forget(encoding.known)
        cached = first.cached
        for job in (first, *self._waiting):
            if encoding.shared(job) == job.context_tokens:
                job.found(context.prefix(job.context_tokens))
                self._ready.append(job)
        first.cached = cached
        self._waiting = [job for job in self._waiting if job.context is None]

    def _ask(self) -> None:
        """Starts batches of jobs whose context is there, as far as there is room."""
        while self._ready:
            room = self.limits.answers - sum(batch.rows for batch in self._batches)
            jobs = _together(self._ready, room)
            if not jobs:
                return
            for job in jobs:
                self._ready.remove(job)
            self._leave(jobs)
            self._answer(jobs)

    def _answer(self, jobs: list[Job]) -> None:
        context, now = jobs[0].context, time.monotonic()
        for job in jobs:
            job.begun, job.context = job.begun or now, None
            self.metrics.queried.inc(len(job.ask.tokens))
            self.metrics.found.inc(job.cached)
        with self._failing(jobs):
            if context is None:
                raise RuntimeError("a job was ready without its context")
            self._batches.append(Batch(self._engine, context, jobs, self.metrics))

    def _stride(self) -> None:
        """Every batch goes on by a stride."""
        for batch in self._batches:
            with self._failing(batch.jobs):
                batch.advance()
        self._batches = [batch for batch in self._batches if not batch.has_ended]

    def _count(self) -> None:
        """Tells the metrics how things stand."""
        self.metrics.waiting.set(len(self._pending))
        self.metrics.running.set(sum(job.left > 0 for b in self._batches for job in b.jobs))
        self.metrics.usage.set(self._store.bytes.device / self.limits.stored)

    @contextlib.contextmanager
    def _failing(self, jobs: Sequence[Job]) -> Iterator[None]:
        """What fails inside fails for these jobs, and for nobody else."""
        try:
            yield
        except Exception as e:
            _LOG.exception("%d requests failed", len(jobs))
            self._fail(jobs, failed(f"the computation failed: {type(e).__name__}"))

    def _fail(self, jobs: Iterable[Job], problem: Problem) -> None:
        """Tells those jobs that have answers to come."""
        for job in jobs:
            if job.left:
                job.tell(problem)
            job.cancel()
            job.left = 0
        self._leave(jobs)

    def _leave(self, jobs: Iterable[Job]) -> None:
        """They are in the queue no more."""
        with self._wake:
            self._pending.difference_update(jobs)


def _together(ready: Sequence[Job], room: int) -> list[Job]:
    """The first job, and those that can be asked in one batch with it, for at most `room` answers.

    Nothing if the first one has no room: it is not overtaken.
    """
    first, size = ready[0], 0
    chosen: list[Job] = []
    for job in ready:
        if not np.array_equal(job.ids, first.ids) or job.ask.how != first.ask.how:
            continue
        longest = max(size, bucket(job.query_tokens))
        answers = (len(chosen) + 1) * job.ask.samples
        if answers > room or (chosen and answers * longest > ASKED):
            break
        size = longest
        chosen.append(job)
    return chosen
