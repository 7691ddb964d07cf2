"""Answers the questions of a JSON-lines file with Star Attention, or with exact attention.

    python -m star_jax.infer --model_path=DIR --attn_type=star --block_size=16384 \\
        --tokens_to_generate=128 --input_path=in.jsonl --output_path=out.jsonl --context=8

Flags and formats are those of NVIDIA's reference script. A line of the input is
{"index"?, "input_context", "input_query", "outputs"? | "output"?}; of the output, these and
"pred", "score" where there are answers, counts and seconds. The output only grows: a run that
was stopped goes on from where it was when the same command is given again, unless --nouse_cache
says that its output is to be overwritten.
"""

import contextlib
import dataclasses
import functools
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from star_jax import checkpoint, interrupts, models
from star_jax import engine as engine_lib
from star_jax.advice import Advice
from star_jax.engine import DTYPES, Engine
from star_jax.prefill.correction import CORRECTIONS
from star_jax.prefill.kinds import KINDS, Kind
from star_jax.runs import cli, devices, hashes, jsonl, limits, places, records, timing
from star_jax.runs.ask import Held, ask, record
from star_jax.runs.devices import MeshConfig, describe_mesh
from star_jax.runs.drawing import GenerationConfig, sampling, stop_words
from star_jax.runs.metrics import MATCH_ALL
from star_jax.runs.progress import Progress
from star_jax.runs.terminal import say
from star_jax.runtime import processes
from star_jax.text.tokenizer import Tokenizer

_MODEL = flags.DEFINE_string("model_path", None, "A directory, or a hub id.", required=True)
_KIND = flags.DEFINE_string("attn_type", None, "star, dense, ring or ulysses.", required=True)
_BLOCK = flags.DEFINE_integer("block_size", -1, "In tokens; needed for star.")
_ANCHOR = flags.DEFINE_integer("anchor_block_size", -1, "In tokens; -1: a block; 0: no anchor.")
_HALO = flags.DEFINE_integer("halo", 0, "Keys of the block before it that a block also sees.")
_CORRECTION = flags.DEFINE_enum(
    "correction", "none", ("none", *CORRECTIONS), "What mends a block's rows."
)
_STRIDE = flags.DEFINE_integer("stride", 64, "A correction attends one of so many rows exactly.")
_TEMPLATE = flags.DEFINE_enum(
    "template",
    "base",
    jsonl.TEMPLATES,
    "base: text as it is; chat: in the model's chat template; rendered: it is in one already.",
)
_TOKENS = flags.DEFINE_integer("tokens_to_generate", None, "At most, an answer.", required=True)
_STOP = flags.DEFINE_string("stop_words", "", "Comma-separated; an answer ends before them.")
_INPUT = flags.DEFINE_string("input_path", None, "JSON lines to read.", required=True)
_OUTPUT = flags.DEFINE_string("output_path", None, "JSON lines to write.", required=True)
_SAMPLES = flags.DEFINE_integer("num_samples", -1, "The first so many; -1: all.")
_CACHE = flags.DEFINE_bool(
    "use_cache", True, "Go on where a run stopped; no: overwrite its output."
)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of weights, activations and cache.")
_BATCH = flags.DEFINE_integer(
    "batch_size", 0, "Questions asked at once, at most 4096; 0: as --data says."
)
_MESH: dict[str, flags.FlagHolder[Any]] = {  # see devices.MeshConfig
    "data": flags.DEFINE_integer("data", 1, "Mesh axis: contexts side by side; the batch."),
    "context": flags.DEFINE_integer("context", 1, "Mesh axis: devices that share a context."),
    "tensor": flags.DEFINE_integer("tensor", 1, "Mesh axis: devices that share each weight."),
    "cpu_devices": flags.DEFINE_integer(
        "cpu_devices", 0, "CPU devices to simulate, in each process; 0: none."
    ),
    "coordinator": flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, of several; auto: what the cluster says."
    ),
    "num_processes": flags.DEFINE_integer(
        "num_processes", 0, "How many; 0: what the cluster says."
    ),
    "process_id": flags.DEFINE_integer("process_id", -1, "From 0 on; -1: what the cluster says."),
    "timeout": flags.DEFINE_integer(
        "timeout", processes.TIMEOUT, "Seconds that processes wait for each other."
    ),
}
_COMPILED = flags.DEFINE_string(
    "compile_cache_dir", "", "Keeps compiled programs for the next run."
)

_SEED = flags.DEFINE_integer(
    "seed", None, "Of the draws, with a question's index; unset: random. The records have it."
)
_DRAWS = {  # see star_jax.Sampling; the temperature is greedy here
    "temperature": flags.DEFINE_float("temperature", 0.0, "0: the likeliest token, always."),
    "top_k": flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest; 0: from all."),
    "top_p": flags.DEFINE_float("top_p", 1.0, "Draw from the likeliest with this share."),
    "min_p": flags.DEFINE_float("min_p", 0.0, "At least this probable, next to the likeliest."),
    "repetition_penalty": flags.DEFINE_float("repetition_penalty", 1.0, "1: none."),
}


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the flags ask for, checked."""

    lines: list[jsonl.Line]
    attention: Kind
    stop: Sequence[str]
    generation: GenerationConfig
    mesh: Mesh
    directory: str  # of the checkpoint
    tokenizer: Tokenizer
    output: str
    manifest: str
    settings: Mapping[str, Any]


def main(argv: Sequence[str]) -> None:
    """Checks all that can be checked, then loads the model and answers what is left."""
    del argv
    job = _checked()
    batches = {"batch_size": _BATCH.value, "lines": len(job.lines)}
    processes.check_same({**job.settings, **batches}, job.mesh)
    with contextlib.ExitStack() as held:
        done = processes.of_first(lambda: _begin(job, held), job.mesh)
        held.enter_context(devices.compile_cache(_COMPILED.value))
        if done == len(job.lines):
            say(f"{job.output} has all the answers; there is nothing to do")
            return
        say(describe_mesh(job.mesh))
        engine = Engine.from_pretrained(
            job.directory, mesh=job.mesh, attention=job.attention, dtype=_DTYPE.value
        )
        answered = _answer_all(job, engine, done)
        say(timing.rates(answered, timing.peak_memory(job.mesh.devices.flat)))


def _checked() -> _Job:
    attention, stop = _attention(), stop_words(_STOP.value, field="--stop_words")
    _check_flags()
    lines = jsonl.read(_INPUT.value)
    lines = lines if _SAMPLES.value == -1 else lines[: _SAMPLES.value]
    limits.check_batch("--batch_size", _BATCH.value, questions=len(lines))
    output, manifest = _written()
    try:
        sampling(_generation(_SEED.value or 0))
    except ValueError as e:  # names the evaluation's settings
        raise ValueError(str(e).replace("generation.", "--")) from e
    mesh = devices.make_mesh(
        MeshConfig(**{name: flag.value for name, flag in _MESH.items()}), prefix="--"
    )
    seed = processes.of_first(lambda: _seed(manifest), mesh)
    directory = checkpoint.resolve(_MODEL.value)
    model = models.read(directory)
    limits.check_tokens(
        "--tokens_to_generate", _TOKENS.value, positions=model.max_position_embeddings
    )
    engine_lib.check(mesh, attention, None, config=model, dtype=_DTYPE.value)
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"--model_path={_MODEL.value} has no tokenizer files; questions are text")
    jsonl.in_template(lines[0], _TEMPLATE.value, tokenizer)  # raises if it cannot be cut
    return _Job(
        lines,
        attention,
        stop,
        _generation(seed),
        mesh,
        directory,
        tokenizer,
        output,
        manifest,
        _settings(attention, stop, directory, mesh, seed),
    )


def _begin(job: _Job, held: contextlib.ExitStack) -> int:
    """Holds the output for this run; how many lines have their answers in it."""
    held.enter_context(places.output_file(job.output))
    places.check_regular(job.manifest)
    return _done(job.output, job.manifest, job.settings, job.lines) if _CACHE.value else 0


def _answer_all(job: _Job, engine: Engine, done: int) -> list[dict[str, Any]]:
    """Answers what is left, batch after batch, and writes it down."""
    all_answered: list[dict[str, Any]] = []
    append: Callable[..., None] = functools.partial(
        records.append_first,
        manifest=job.manifest,
        settings=job.settings,
        num_samples=len(job.lines),
    )
    held = Held()
    with Progress(len(job.lines) - done) as progress:
        for batch in records.missing(done, len(job.lines), _BATCH.value or _MESH["data"].value):
            answered = _answer(job, engine, [job.lines[i] for i in batch], held, progress.begin)
            if processes.is_first():
                with interrupts.held():
                    if batch.start == 0:
                        os.truncate(job.output, 0)  # an old run's, if any, with --nouse_cache
                    append(job.output, answered)
            append = records.append
            all_answered += answered
            # Once is enough: they name each length.
            warnings.simplefilter("ignore", Advice)
            progress.advance(len(batch), f"{batch.stop}/{len(job.lines)} questions")
    return all_answered


def _done(
    output: str, manifest: str, settings: Mapping[str, Any], lines: Sequence[jsonl.Line]
) -> int:
    """How many of the lines have their answers in the output of an earlier run."""
    records.check_manifest(manifest, settings, num_samples=len(lines))
    if os.path.getsize(output) and not os.path.exists(manifest):
        raise ValueError(
            f"--output_path={output} is there, and no {os.path.basename(manifest)} that says how "
            "it was made: move it, give another path, or overwrite it with --nouse_cache"
        )
    return len(records.recover(output, [_index(line) for line in lines]))


def _attention() -> Kind:
    if _KIND.value not in KINDS:
        raise ValueError(f"--attn_type={_KIND.value} is unknown: use {', '.join(KINDS)}")
    kind = KINDS[_KIND.value]
    if kind.is_exact:
        return kind()
    try:
        return kind(
            block_size=_BLOCK.value,
            anchor_size=None if _ANCHOR.value == -1 else _ANCHOR.value,
            halo=_HALO.value,
            correction=None if _CORRECTION.value == "none" else _CORRECTION.value,
            stride=_STRIDE.value,
        )
    except ValueError as e:
        raise ValueError(f"--block_size, --anchor_block_size, --halo, --stride: {e}") from e


def _check_flags() -> None:
    if _TOKENS.value < 1:
        raise ValueError(f"--tokens_to_generate={_TOKENS.value} must be at least 1")
    if _SAMPLES.value < 1 and _SAMPLES.value != -1:
        raise ValueError(f"--num_samples={_SAMPLES.value} must be at least 1, or -1: all")
    if _BATCH.value < 0:
        raise ValueError(f"--batch_size={_BATCH.value} must be at least 1, or 0: --data")
    if not _OUTPUT.value:
        raise ValueError("--output_path is empty: name a file, here or in a directory")
    places.check_regular(_OUTPUT.value)  # now, before anything slow is imported
    output, manifest = _written()
    for path in (output, manifest, records.part(manifest)):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(_INPUT.value, path):
                raise ValueError(
                    f"--output_path={_OUTPUT.value} writes {path}, which is the file of "
                    "--input_path"
                )


def _written() -> tuple[str, str]:
    """The output and its manifest, which goes beside the file of a link, and not into /dev."""
    output = os.path.realpath(_OUTPUT.value) if os.path.islink(_OUTPUT.value) else _OUTPUT.value
    return output, f"{output}.manifest.json"


def _seed(manifest: str) -> int:
    """The one that is given; or else that of the run that goes on here, or a random one."""
    if _SEED.value is not None:
        return _SEED.value
    if not _DRAWS["temperature"].value:
        return 0
    before = records.begun_with(manifest, "seed") if _CACHE.value else None
    return before if type(before) is int else secrets.randbelow(2**32)


def _settings(
    attention: Kind, stop: Sequence[str], directory: str, mesh: Mesh, seed: int
) -> dict[str, Any]:
    """All that the answers depend on, as flat fields, named like the flags."""
    flag = {"block_size": "block_size", "anchor_size": "anchor_block_size"}
    return {
        "model_path (its files)": hashes.of_checkpoint(directory),
        "attn_type": _KIND.value,
        **{flag[name]: size for name, size in attention.sizes.items()},
        **attention.mending,
        "tokens_to_generate": _TOKENS.value,
        "stop_words": stop,
        "template": _TEMPLATE.value,
        "seed": seed,
        **{name: flag.value for name, flag in _DRAWS.items()},
        "input_path (its contents)": hashes.of_file(_INPUT.value),
        "dtype": _DTYPE.value,
        **mesh.shape,
        "device": mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
    }


def _index(line: jsonl.Line) -> int:
    """The index, which the reference writes as -1 where the input gives none."""
    return line.sample.index if jsonl.has_index(line) else -1


def _generation(seed: int) -> GenerationConfig:
    draws: dict[str, Any] = {name: flag.value for name, flag in _DRAWS.items()}
    return GenerationConfig(seed=seed, **draws)


def _answer(
    job: _Job,
    engine: Engine,
    lines: Sequence[jsonl.Line],
    held: Held,
    begin: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The records of a batch."""
    begin(f"tokenising {len(lines)} question{'s' * (len(lines) > 1)}")
    samples = [jsonl.in_template(line, _TEMPLATE.value, job.tokenizer) for line in lines]
    contexts = [job.tokenizer.encode_context(sample.context) for sample in samples]
    queries = [job.tokenizer.encode_query(sample.query) for sample in samples]
    answers, seconds = ask(
        engine,
        contexts,
        queries,
        held=held,
        max_new_tokens=_TOKENS.value,
        stop=job.stop,
        sampling=sampling(job.generation, [sample.index for sample in samples]),
        begin=begin,
    )
    found = []
    for line, answer, context, query in zip(lines, answers, contexts, queries, strict=True):
        fields = record(
            line.sample,
            answer,
            metric=MATCH_ALL,
            n_context_tokens=len(context),
            n_query_tokens=len(query),
        )
        found.append({**fields, "index": _index(line), **seconds})
    return found


if __name__ == "__main__":
    cli.run(main)
