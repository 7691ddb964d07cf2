"""A context that is being encoded, wave by wave."""

from collections.abc import Iterator

from star_jax.cache.context import Context
from star_jax.engine import Engine
from star_jax.serve.jobs import Job


class Encoding:
    """The context of a job on its way, or what is missing of it behind one that was found."""

    def __init__(self, engine: Engine, job: Job, found: Context | None):
        self.job, self.ids, self.key = job, job.ids, job.ask.key
        ids = self.ids.tolist()
        self.known = [] if found is None else found.tokens[0]  # what it begins with
        job.cached = len(self.known)
        self._work = (
            engine.prefilling(ids) if found is None else engine.extending(found, ids[job.cached :])
        )
        self._steps: Iterator[int] = iter(self._work)
        self._shared: dict[Job, int] = {}

    def step(self) -> int:
        """Runs one wave; how many tokens are encoded then."""
        return next(self._steps)

    @property
    def context(self) -> Context:
        """What was encoded, when all is."""
        return self._work.finish()

    def shared(self, job: Job) -> int:
        """How many tokens of the job's context will be in this one."""
        if (known := self._shared.get(job)) is not None:
            return known
        size = min(len(self.ids), len(job.ids))
        differ = self.ids[:size] != job.ids[:size]
        self._shared[job] = int(differ.argmax()) if differ.any() else size
        return self._shared[job]
