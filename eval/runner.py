"""A run: every question, asked with every kind of attention, into files that can be resumed."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from star_jax import attention, checkpoint, models
from star_jax import engine as engine_lib
from star_jax.checks import Advice
from star_jax.engine import Engine
from star_jax.eval import config as config_lib
from star_jax.eval import devices, fingerprint, limits, places, records, report, suites, timing
from star_jax.eval.ask import Held, ask, is_cut, record
from star_jax.eval.config import EvalConfig, Row
from star_jax.eval.progress import Progress
from star_jax.eval.sample import Sample
from star_jax.eval.suites import Cell
from star_jax.eval.terminal import say
from star_jax.tokenizer import Tokenizer


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
    needles: list[tuple[int, int] | None]  # the tokens of each needle

    def __getitem__(self, which: slice) -> "Questions":
        return Questions(
            self.samples[which], self.contexts[which], self.queries[which], self.needles[which]
        )


def run(config: EvalConfig) -> str:
    """Runs what is left of a checked configuration; returns the table of results.

    Everything that can be wrong is looked for before the model is loaded, and nothing is
    written before the first batch has been answered.
    """
    mesh = devices.make_mesh(**dataclasses.asdict(config.mesh), prefix="mesh.")
    asked = config.attention.implementation or None
    attention.resolve(asked, mesh)  # before anything is fetched
    directory = checkpoint.resolve(config.model.path)
    model = models.read(directory)
    some = config_lib.lengths(config.data)[0] or config_lib.SOME_LENGTH
    for row in config_lib.rows(config.attention, some):
        implementation = engine_lib.check(
            mesh, row.attention, asked, config=model, dtype=config.model.dtype
        )
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"{config.model.path} has no tokenizer files, and questions are text")
    for length in config_lib.lengths(config.data):
        limits.check_tokens("data.lengths", length or 0, positions=model.max_position_embeddings)
    limits.check_tokens(
        "generation.max_new_tokens",
        config.generation.max_new_tokens,
        positions=model.max_position_embeddings,
    )
    cells = suites.cells(config, tokenizer)
    settings = _settings(config, directory, mesh, implementation)
    num_samples = max(len(cell.indices) for cell in cells)
    limits.check_batch("data.batch_size", config_lib.batch_size(config), questions=num_samples)
    manifest = os.path.join(config.output_dir, "manifest.json")
    with (
        places.writable(config.profile_dir or config.output_dir),
        devices.compile_cache(config.compile_cache_dir),
        places.output_directory(config.output_dir),
    ):
        for name in report.FILES:
            places.check_regular(os.path.join(config.output_dir, name))
        records.check_manifest(manifest, settings, num_samples=num_samples)
        jobs = _jobs(config, cells, has_manifest=os.path.exists(manifest))
        if not any(job.left() for job in jobs):
            say(f"{config.output_dir} has all the answers; there is nothing to do")
        else:
            for cell in cells:
                cell.draw(0)  # a length that holds no question is told now
            _print_plan(jobs, mesh)
            engine = Engine.from_pretrained(
                directory,
                mesh=mesh,
                attention=jobs[0].parts[0].row.attention,
                dtype=config.model.dtype,
                implementation=implementation,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Advice)  # the report notes it, row by row
                _answer_all(
                    config,
                    engine,
                    tokenizer,
                    jobs,
                    append_first=functools.partial(
                        records.append_first,
                        manifest=manifest,
                        settings=settings,
                        num_samples=num_samples,
                    ),
                )
        return report.write(
            config.output_dir,
            _entries(jobs),
            devices=config.mesh.context,
            peak_memory=timing.peak_memory(mesh.devices.flat),
        )


def _settings(
    config: EvalConfig, directory: str, mesh: Mesh, implementation: str
) -> dict[str, Any]:
    """All that the results depend on, as flat fields; the order of lists does not count."""
    sizes = {
        f"attention.{name}": sorted(
            config_lib.items(f"attention.{name}", getattr(config.attention, name))
        )
        for name in ("block_size", "anchor_size")
        if config_lib.has_sizes(config.attention)
    }
    return {
        "model.files": fingerprint.of_checkpoint(directory),
        "model.dtype": config.model.dtype,
        "attention.kind": sorted(config_lib.items("attention.kind", config.attention.kind)),
        **sizes,
        "attention.implementation": implementation,
        **{f"mesh.{name}": size for name, size in mesh.shape.items()},
        "mesh.device": mesh.devices.flat[0].device_kind,
        **suites.settings(config.data),
        **{f"generation.{k}": v for k, v in dataclasses.asdict(config.generation).items()},
        "generation.stop": config_lib.stop_words(config.generation.stop),
        "jax": jax.__version__,
    }


def _jobs(config: EvalConfig, cells: Sequence[Cell], *, has_manifest: bool) -> list[Job]:
    """The cells with their rows, and what is done of each."""
    jobs = []
    for cell in cells:
        folder = "all" if cell.length is None else str(cell.length)
        parts = []
        for row in config_lib.rows(config.attention, cell.whole):
            path = os.path.join(config.output_dir, row.name, folder, f"{cell.task}.jsonl")
            if os.path.exists(path) and not has_manifest:
                raise ValueError(
                    f"{path} is there, and no manifest.json that says how it was made: "
                    "use another output_dir"
                )
            found = records.recover(path, cell.indices)
            parts.append(Part(row, path, [one["score"] for one in found]))
        jobs.append(Job(cell, parts))
    return jobs


def _answer_all(
    config: EvalConfig,
    engine: Engine,
    tokenizer: Tokenizer,
    jobs: Sequence[Job],
    *,
    append_first: Callable[[str, Sequence[records.Record]], None],
) -> None:
    """Answers what is left, batch after batch, each with every kind of attention in turn."""
    held = Held()
    with Progress(sum(job.left() * _work(job.cell) for job in jobs)) as progress:
        append = append_first
        for job in jobs:
            engines = {part.row: engine.with_attention(part.row.attention) for part in job.parts}
            least = min(len(part.scores) for part in job.parts)
            for batch in records.missing(
                least, len(job.cell.indices), config_lib.batch_size(config)
            ):
                progress.begin(f"making {len(batch)} question{'s' * (len(batch) > 1)}")
                drawn = _draw(job.cell, batch, tokenizer)
                for part in job.parts:
                    questions = drawn[max(0, len(part.scores) - batch.start) :]
                    if not questions.samples:
                        continue
                    asked = engines[part.row]
                    found = _answer(questions, job.cell, asked, config, held, progress.begin)
                    append(part.path, found)
                    if append is append_first:
                        append = records.append
                        _profile(questions, job.cell, asked, config, held)
                    part.scores += [one["score"] for one in found]
                    progress.advance(len(found) * _work(job.cell), _describe(job))


def _work(cell: Cell) -> float:
    """Of one answer, in any unit: it grows with the context."""
    return float(cell.length or 1)


def _draw(cell: Cell, batch: range, tokenizer: Tokenizer) -> Questions:
    samples = [cell.draw(position) for position in batch]
    return Questions(
        samples,
        [tokenizer.encode_context(sample.context) for sample in samples],
        [tokenizer.encode_query(sample.query) for sample in samples],
        [
            None if sample.needle is None else tokenizer.span(sample.context, *sample.needle)
            for sample in samples
        ],
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
    answers, seconds = ask(
        engine,
        questions.contexts,
        questions.queries,
        held=held,
        max_new_tokens=cell.max_new_tokens,
        stop=config_lib.stop_words(config.generation.stop),
        ignore_eos=config.generation.ignore_eos,
        sampling=config_lib.sampling(
            config.generation, [sample.index for sample in questions.samples]
        ),
        begin=begin,
    )
    rows = zip(
        questions.samples,
        answers,
        questions.contexts,
        questions.queries,
        questions.needles,
        strict=True,
    )
    return [
        {
            **record(
                sample,
                answer,
                metric=cell.metric,
                n_context_tokens=len(context),
                n_query_tokens=len(query),
            ),
            "needle_cut": is_cut(needle, engine.attention),
            **seconds,
        }
        for sample, answer, context, query, needle in rows
    ]


def _profile(
    questions: Questions, cell: Cell, engine: Engine, config: EvalConfig, held: Held
) -> None:
    """Answers a batch once more, now that its programs are compiled, under the profiler."""
    if config.profile_dir:
        held.let_go()  # or nothing would be encoded
        with jax.profiler.trace(config.profile_dir):
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


def _entries(jobs: Sequence[Job]) -> list[report.Entry]:
    return [
        report.Entry(job.cell.task, job.cell.length, part.row, part.path)
        for job in jobs
        for part in job.parts
    ]


def describe_mesh(mesh: Mesh) -> str:
    """The mesh in a line, with the devices that it leaves out."""
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    unused = len(jax.devices()) - mesh.size
    return f"mesh: {axes}, on {mesh.devices.flat[0].device_kind}" + (
        f"; {unused} more devices are not used" if unused else ""
    )


def _print_plan(jobs: Sequence[Job], mesh: Mesh) -> None:
    say(
        describe_mesh(mesh),
        *(
            f"{job.cell.task} @ {job.cell.length or 'all'}: {len(job.cell.indices)} questions, "
            f"{job.left()} answers to give: {', '.join(part.row.name for part in job.parts)}"
            for job in jobs
        ),
    )
