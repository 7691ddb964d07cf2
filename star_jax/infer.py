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
import functools
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from star_jax import checkpoint, interrupts, models
from star_jax import engine as engine_lib
from star_jax.checks import Advice
from star_jax.engine import DTYPES, Engine
from star_jax.eval import cli, devices, fingerprint, jsonl, limits, places, records, timing
from star_jax.eval.ask import Held, ask, record
from star_jax.eval.config import CHAT, GenerationConfig, sampling, stop_words
from star_jax.eval.metrics import string_match_all
from star_jax.eval.progress import Progress
from star_jax.eval.runner import describe_mesh
from star_jax.eval.terminal import say
from star_jax.kinds import KINDS, Kind
from star_jax.tokenizer import Tokenizer

_MODEL = flags.DEFINE_string("model_path", None, "A directory, or a hub id.", required=True)
_KIND = flags.DEFINE_string("attn_type", None, "star, dense, ring or ulysses.", required=True)
_BLOCK = flags.DEFINE_integer("block_size", -1, "In tokens; needed for star.")
_ANCHOR = flags.DEFINE_integer("anchor_block_size", -1, "In tokens; -1: a block; 0: no anchor.")
_TEMPLATE = flags.DEFINE_enum(
    "template", "base", ("base", CHAT), "base: text as it is; chat: in the model's chat template."
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
_DATA = flags.DEFINE_integer("data", 1, "Mesh axis: contexts side by side; the batch.")
_CONTEXT = flags.DEFINE_integer("context", 1, "Mesh axis: devices that share a context.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Mesh axis: devices that share each weight.")
_CPUS = flags.DEFINE_integer("cpu_devices", 0, "CPU devices to simulate; 0: none.")
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


def main(argv: Sequence[str]) -> None:
    """Checks all that can be checked, then loads the model and answers what is left."""
    del argv
    attention, stop = _attention(), stop_words(_STOP.value, field="--stop_words")
    _check_flags()
    lines = jsonl.read(_INPUT.value)
    lines = lines if _SAMPLES.value == -1 else lines[: _SAMPLES.value]
    limits.check_batch("--batch_size", _BATCH.value, questions=len(lines))
    output, manifest = _written()
    seed = _seed(manifest)
    generation = _generation(seed)
    try:
        sampling(generation)
    except ValueError as e:  # names the evaluation's settings
        raise ValueError(str(e).replace("generation.", "--")) from e
    mesh = devices.make_mesh(
        data=_DATA.value,
        context=_CONTEXT.value,
        tensor=_TENSOR.value,
        cpu_devices=_CPUS.value,
        prefix="--",
    )
    directory = checkpoint.resolve(_MODEL.value)
    model = models.read(directory)
    limits.check_tokens(
        "--tokens_to_generate", _TOKENS.value, positions=model.max_position_embeddings
    )
    engine_lib.check(mesh, attention, None, config=model, dtype=_DTYPE.value)
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"--model_path={_MODEL.value} has no tokenizer files; questions are text")
    if _TEMPLATE.value == CHAT:
        jsonl.in_chat(lines[0], tokenizer)  # raises if it cannot be cut
    settings = _settings(attention, stop, directory, mesh, seed)
    with places.output_file(output), devices.compile_cache(_COMPILED.value):
        places.check_regular(manifest)
        done = _done(output, manifest, settings, lines) if _CACHE.value else 0
        if done == len(lines):
            say(f"{output} has all the answers; there is nothing to do")
            return
        say(describe_mesh(mesh))
        engine = Engine.from_pretrained(
            directory, mesh=mesh, attention=attention, dtype=_DTYPE.value
        )
        all_answered: list[dict[str, Any]] = []
        append: Callable[..., None] = functools.partial(
            records.append_first, manifest=manifest, settings=settings, num_samples=len(lines)
        )
        held = Held()
        with Progress(len(lines) - done) as progress:
            for batch in records.missing(done, len(lines), _BATCH.value or _DATA.value):
                asked = [lines[i] for i in batch]
                answered = _answer(engine, tokenizer, asked, stop, generation, held, progress.begin)
                with interrupts.held():
                    if batch.start == 0:
                        os.truncate(output, 0)  # an old run's, if there is any, with --nouse_cache
                    append(output, answered)
                append = records.append
                all_answered += answered
                # Once is enough: they name each length.
                warnings.simplefilter("ignore", Advice)
                progress.advance(len(batch), f"{batch.stop}/{len(lines)} questions")
        peak = timing.peak_memory(mesh.devices.flat)
        print(timing.rates(all_answered, peak), file=sys.stderr)


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
    anchor = None if _ANCHOR.value == -1 else _ANCHOR.value
    try:
        return kind(block_size=_BLOCK.value, anchor_size=anchor)
    except ValueError as e:
        raise ValueError(f"--block_size, --anchor_block_size: {e}") from e


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
        "model_path (its files)": fingerprint.of_checkpoint(directory),
        "attn_type": _KIND.value,
        **{flag[name]: size for name, size in attention.sizes.items()},
        "tokens_to_generate": _TOKENS.value,
        "stop_words": stop,
        "template": _TEMPLATE.value,
        "seed": seed,
        **{name: flag.value for name, flag in _DRAWS.items()},
        "input_path (its contents)": fingerprint.of_file(_INPUT.value),
        "dtype": _DTYPE.value,
        **mesh.shape,
        "device": mesh.devices.flat[0].device_kind,
        "jax": jax.__version__,
    }


def _index(line: jsonl.Line) -> int:
    """As the reference writes it: -1 where the input gives none."""
    return line.sample.index if jsonl.has_index(line) else -1


def _generation(seed: int) -> GenerationConfig:
    draws: dict[str, Any] = {name: flag.value for name, flag in _DRAWS.items()}
    return GenerationConfig(seed=seed, **draws)


def _answer(
    engine: Engine,
    tokenizer: Tokenizer,
    lines: Sequence[jsonl.Line],
    stop: Sequence[str],
    generation: GenerationConfig,
    held: Held,
    begin: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The records of a batch."""
    begin(f"tokenising {len(lines)} question{'s' * (len(lines) > 1)}")
    samples = [line.sample for line in lines]
    if _TEMPLATE.value == CHAT:
        samples = [jsonl.in_chat(line, tokenizer) for line in lines]
    contexts = [tokenizer.encode_context(sample.context) for sample in samples]
    queries = [tokenizer.encode_query(sample.query) for sample in samples]
    answers, seconds = ask(
        engine,
        contexts,
        queries,
        held=held,
        max_new_tokens=_TOKENS.value,
        stop=stop,
        sampling=sampling(generation, [sample.index for sample in samples]),
        begin=begin,
    )
    found = []
    for line, answer, context, query in zip(lines, answers, contexts, queries, strict=True):
        fields = record(
            line.sample,
            answer,
            metric=string_match_all,
            n_context_tokens=len(context),
            n_query_tokens=len(query),
        )
        given = {name: line.fields[name] for name in jsonl.KEPT if name in line.fields}
        found.append({**fields, **given, "index": _index(line), **seconds})
    return found


if __name__ == "__main__":
    cli.run(main)
