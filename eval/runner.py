"""A run: every question, asked with every kind of attention, into files that can be resumed."""

import contextlib
import dataclasses
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from star_jax.advice import Advice
from star_jax.engine import Engine
from star_jax.eval import config as config_lib
from star_jax.eval import naming, plans, published, report
from star_jax.eval.config import EvalConfig
from star_jax.eval.plans import Plan
from star_jax.eval.rows import Row, rows
from star_jax.eval.suites import Cell
from star_jax.runs import devices, forced, places, records, timing
from star_jax.runs.ask import Held, ask, is_cut, record
from star_jax.runs.drawing import sampling, stop_words
from star_jax.runs.progress import Progress
from star_jax.runs.sample import Sample
from star_jax.runs.terminal import say
from star_jax.runtime import processes
from star_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass
class Part:
    """One row of a cell: its record file, and the scores that are in it."""

    row: Row
    path: str
    scores: list[float | None]


@dataclasses.dataclass
class Job:
    """A cell, and its rows."""

    cell: Cell
    parts: list[Part]

    def left(self) -> int:
        """How many answers there are still to be given."""
        return sum(len(self.cell.indices) - len(part.scores) for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Questions:
    """A batch of samples as token ids, the same for every kind of attention."""

    samples: list[Sample]
    contexts: list[list[int]]
    queries: list[list[int]]
    needles: list[list[tuple[int, int]]]  # the tokens of each sample's

    def __getitem__(self, which: slice) -> "Questions":
        return Questions(
            self.samples[which], self.contexts[which], self.queries[which], self.needles[which]
        )


def run(config: EvalConfig) -> str:
    """Runs what is left of a checked configuration; returns the table of results.

    Everything that can be wrong is looked for before the model is loaded, and nothing is
    written before the first batch has been answered. Of several processes the first writes.
    """
    plan = plans.make(config)
    processes.check_same(plans.driving(plan), plan.mesh)
    with contextlib.ExitStack() as held:
        scores = processes.of_first(lambda: _begin(plan, held), plan.mesh)
        if not processes.is_first():
            held.enter_context(devices.compile_cache(config.compile_cache_dir))
        jobs = _jobs(plan, scores)
        if not any(job.left() for job in jobs):
            say(f"{config.output_dir} has all the answers; there is nothing to do")
        else:
            for cell in plan.cells:
                cell.draw(0)  # a length that holds no question is told now
            _print_plan(jobs, plan.mesh)
            engine = Engine.from_pretrained(
                plan.directory,
                mesh=plan.mesh,
                attention=jobs[0].parts[0].row.attention,
                dtype=config.model.dtype,
                implementation=plan.implementation,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Advice)  # the report notes it, row by row
                _answer_all(plan, engine, jobs)
        return processes.of_first(lambda: _report(plan, jobs), plan.mesh)  # the others wait


def _report(plan: Plan, jobs: Sequence[Job]) -> str:
    how: dict[str, Any] = {"num_samples": plan.num_samples, "about": plan.about}
    records.write_manifest(plan.manifest, plan.settings, **how)  # an older run's may say less
    return report.write(
        plan.config.output_dir,
        _entries(plan, jobs),
        devices=plan.config.mesh.context,
        peak_memory=timing.peak_memory(plan.mesh.devices.flat),
    )


def _begin(plan: Plan, held: contextlib.ExitStack) -> list[list[float | None]]:
    """Holds the output for this run; the scores that are in it, for each record file."""
    config = plan.config
    held.enter_context(places.writable(config.profile_dir or config.output_dir))
    held.enter_context(devices.compile_cache(config.compile_cache_dir))
    held.enter_context(places.output_directory(config.output_dir))
    for name in report.FILES:
        places.check_regular(os.path.join(config.output_dir, name))
    records.check_manifest(plan.manifest, plan.settings, num_samples=plan.num_samples)
    has_manifest = os.path.exists(plan.manifest)
    scores = []
    for cell, _, path in _parts(plan):
        if os.path.exists(path) and not has_manifest:
            raise ValueError(
                f"{path} is there, and no manifest.json that says how it was made: "
                "use another output_dir"
            )
        scores.append([one["score"] for one in records.recover(path, cell.indices)])
    return scores


def _parts(plan: Plan) -> Iterator[tuple[Cell, Row, str]]:
    """The rows of each cell, with their record files."""
    for cell in plan.cells:
        folder = "all" if cell.length is None else str(cell.length)
        for row in rows(plan.config.attention, cell.whole, plan.config.cache):
            yield (
                cell,
                row,
                os.path.join(plan.config.output_dir, row.name, folder, f"{cell.task}.jsonl"),
            )


def _jobs(plan: Plan, scores: Sequence[list[float | None]]) -> list[Job]:
    """The cells with their rows, and what is done of each."""
    done = iter(scores)
    return [
        Job(cell, [Part(row, path, list(next(done))) for _, row, path in parts])
        for cell, parts in itertools.groupby(_parts(plan), key=lambda part: part[0])
    ]


def _answer_all(plan: Plan, engine: Engine, jobs: Sequence[Job]) -> None:
    """Answers what is left, batch after batch, each with every kind of attention in turn."""
    held, is_first_batch = Held(), True
    with Progress(sum(job.left() * _work(job.cell) for job in jobs)) as progress:
        for job in jobs:
            engines = {
                part.row: engine.with_attention(part.row.attention)
                .with_keep(part.row.keep)
                .with_cache(part.row.cache_dtype)
                for part in job.parts
            }
            least = min(len(part.scores) for part in job.parts)
            for batch in records.missing(
                least, len(job.cell.indices), config_lib.batch_size(plan.config)
            ):
                progress.begin(f"making {len(batch)} question{'s' * (len(batch) > 1)}")
                drawn = _draw(job.cell, batch, plan.tokenizer)
                for part in job.parts:
                    questions = drawn[max(0, len(part.scores) - batch.start) :]
                    if not questions.samples:
                        continue
                    asked = engines[part.row]
                    found = _answer(questions, job.cell, asked, plan.config, held, progress.begin)
                    if processes.is_first():
                        _append(plan, part.path, found, is_first_batch)
                    if is_first_batch:
                        _profile(questions, job.cell, asked, plan.config, held)
                    is_first_batch = False
                    part.scores += [one["score"] for one in found]
                    progress.advance(len(found) * _work(job.cell), _describe(job))


def _append(plan: Plan, path: str, found: Sequence[records.Record], is_first_batch: bool) -> None:
    if is_first_batch:
        how: dict[str, Any] = {"num_samples": plan.num_samples, "about": plan.about}
        records.append_first(path, found, manifest=plan.manifest, settings=plan.settings, **how)
    else:
        records.append(path, found)


def _work(cell: Cell) -> float:
    """What one answer costs, in any unit: it grows with the context."""
    return float(cell.length or 1)


def _draw(cell: Cell, batch: range, tokenizer: Tokenizer) -> Questions:
    samples = [cell.draw(position) for position in batch]
    return Questions(
        samples,
        [tokenizer.encode_context(sample.context) for sample in samples],
        [tokenizer.encode_query(sample.query) for sample in samples],
        [tokenizer.spans(sample.context, sample.needles) for sample in samples],
    )


def _answer(
    questions: Questions,
    cell: Cell,
    engine: Engine,
    config: EvalConfig,
    held: Held,
    begin: Callable[[str], None] = lambda doing: None,
) -> list[dict[str, Any]]:
    """The records of a batch."""
    contexts, queries = questions.contexts, questions.queries
    found: list[Any]
    if cell.metric.is_forced:
        found, seconds = forced.measure(
            engine, questions.samples, contexts, queries, held=held, begin=begin
        )
    else:
        found, seconds = ask(
            engine,
            contexts,
            queries,
            held=held,
            max_new_tokens=cell.max_new_tokens,
            stop=stop_words(config.generation.stop),
            ignore_eos=config.generation.ignore_eos,
            sampling=sampling(config.generation, [sample.index for sample in questions.samples]),
            begin=begin,
        )
    write: Callable[..., dict[str, Any]] = forced.measured if cell.metric.is_forced else record
    rows = zip(questions.samples, found, contexts, queries, questions.needles, strict=True)
    return [
        {
            **write(
                sample,
                answer,
                metric=cell.metric,
                n_context_tokens=len(context),
                n_query_tokens=len(query),
            ),
            "needles": [list(needle) for needle in needles],
            "needle_cut": is_cut(needles, engine.attention),
            **seconds,
        }
        for sample, answer, context, query, needles in rows
    ]


def _profile(
    questions: Questions, cell: Cell, engine: Engine, config: EvalConfig, held: Held
) -> None:
    """Answers a batch once more, now that its programs are compiled, under the profiler."""
    if config.profile_dir:
        held.let_go()  # or nothing would be encoded
        with (
            jax.profiler.trace(config.profile_dir)
            if processes.is_first()
            else contextlib.nullcontext()
        ):
            _answer(questions, cell, engine, config, held)


def _describe(job: Job) -> str:
    """Where a cell is, and the scores so far."""
    name = job.cell.task if job.cell.length is None else f"{job.cell.task} @ {job.cell.length}"
    done = max(len(part.scores) for part in job.parts)
    means = []
    for part in job.parts:
        scores = [score for score in part.scores if score is not None]
        if scores:
            means.append(f"{part.row.name} {100 * sum(scores) / len(scores):.1f}")
    return f"{name} {done}/{len(job.cell.indices)}  {', '.join(means)}"


def _entries(plan: Plan, jobs: Sequence[Job]) -> list[report.Entry]:
    model, suite = plan.about["model"], plan.config.data.suite
    found = []
    for job in jobs:
        task, length = job.cell.task, job.cell.length
        known = published.find(model=model, suite=suite, task=task, length=length)
        for part in job.parts:
            figure = published.beside(known, naming.described(part.row)) if length else None
            score = None if figure is None else figure.score
            found.append(report.Entry(task, length, part.row, part.path, published=score))
    return found


def _print_plan(jobs: Sequence[Job], mesh: Mesh) -> None:
    say(
        devices.describe_mesh(mesh),
        *(
            f"{job.cell.task} @ {job.cell.length or 'all'}: {len(job.cell.indices)} questions, "
            f"{job.left()} answers to give: {', '.join(part.row.name for part in job.parts)}"
            for job in jobs
        ),
    )
