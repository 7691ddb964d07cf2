"""Jobs that are answered together: questions to one context, drawn alike."""

import dataclasses
import secrets
import time
from collections.abc import Sequence

from star_jax.cache.context import Context
from star_jax.engine import Engine
from star_jax.generate.sampling import SEEDS
from star_jax.serve.jobs import Job, held
from star_jax.serve.metrics import Metrics

# Tokens between two looks at the other batches: few where a client reads along.
STRIDE, STREAMED = 16, 4


class Batch:
    """A generation under way, and whose answers its are."""

    def __init__(self, engine: Engine, context: Context, jobs: Sequence[Job], metrics: Metrics):
        self.jobs = list(jobs)  # in the order of the questions
        self.held = held(context)
        self._metrics = metrics
        ask = jobs[0].ask
        self._samples = ask.samples
        sampling = ask.sampling
        if sampling.mode.draws:
            seeds = tuple(_seed(job.ask.sampling.seed) for job in jobs)
            sampling = dataclasses.replace(sampling, seed=seeds)
        most = max(job.ask.max_new_tokens for job in jobs)
        self._generation = engine.start(
            context,
            [job.ask.tokens[job.context_tokens :] for job in jobs],
            max_new_tokens=most,
            stop=ask.stop,
            ignore_eos=ask.ignore_eos,
            sampling=sampling,
            samples=self._samples,
            stride=STREAMED if any(job.ask.streamed for job in jobs) else STRIDE,
        )
        for i, job in enumerate(jobs):
            if job.ask.max_new_tokens < most:
                for index in self._answers(i):
                    self._generation.limit(index, job.ask.max_new_tokens)

    @property
    def rows(self) -> int:
        """Answers that the devices work on."""
        return len(self.jobs) * self._samples

    @property
    def has_ended(self) -> bool:
        return not any(job.left for job in self.jobs)

    def drop(self, job: Job) -> None:
        """Ends the answers to a job; those of the others go on."""
        for index in self._answers(self.jobs.index(job)):
            self._generation.cancel(index)
        job.left = 0

    def advance(self) -> None:
        """Goes on by a stride, and tells the jobs what is new."""
        events = self._generation.advance()
        now = time.monotonic()
        for event in events or ():
            i, sample = divmod(event.index, self._samples)
            job = self.jobs[i]
            if not job.left:
                continue  # it was dropped
            self._metrics.tokens(job, sample, len(event.tokens), now)
            if event.stop_reason is not None:
                self._metrics.answered(event.stop_reason)
                job.left -= 1
                if not job.left:
                    self._metrics.done(job, now)
            job.tell(dataclasses.replace(event, index=sample))

    def _answers(self, job: int) -> range:
        return range(job * self._samples, (job + 1) * self._samples)


def _seed(seed: object) -> int:
    return seed if isinstance(seed, int) else secrets.randbelow(SEEDS)
