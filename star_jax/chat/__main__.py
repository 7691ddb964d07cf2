"""A dialogue about a document that is encoded once: questions, follow-ups, summaries.

    python -m star_jax.chat --config=configs/chat.py --config.model.path=DIR --context=book.txt

The configuration is that of an evaluation: of it `model`, `attention` (one kind), `mesh`,
`generation` and `compile_cache_dir` are read. With --question it answers that and ends; without
it opens a prompt, where /help lists the commands. Answers go to stdout, all else to stderr.
"""

import dataclasses
import os
import warnings
from collections.abc import Sequence

from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags  # type: ignore[import-untyped]

from star_jax import attention as implementations
from star_jax import checkpoint, json_files, models
from star_jax import engine as engine_lib
from star_jax.advice import Advice
from star_jax.cache.about import ABOUT, About
from star_jax.cache.context import Context
from star_jax.chat import documents, keyboard
from star_jax.chat.dialogue import Dialogue
from star_jax.chat.forms import Form, InTemplate, Plain
from star_jax.chat.session import Session, watch
from star_jax.engine import Engine
from star_jax.eval import config as config_lib
from star_jax.eval import help
from star_jax.eval.config import AttentionConfig, EvalConfig
from star_jax.eval.rows import Row, only_row, rows_at
from star_jax.prefill import kinds
from star_jax.runs import cli, devices, limits
from star_jax.runs.terminal import say
from star_jax.text.prompt import Prompt
from star_jax.text.tokenizer import Tokenizer

_UNREAD = ("data.", "output_dir", "profile_dir")  # settings of evaluations
_ROUND = 64  # tokens
_MAX_NEW_TOKENS = 512  # where the configuration leaves it to tasks


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "A file with a get_config().")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string(
        "context",
        None,
        "The document: .txt, .md, .jsonl (lines with a text), - (standard input), or what /save "
        "wrote.",
        required=True,
    )
    flags.DEFINE_multi_string("question", [], "Answered in turn; then the command ends.")
    flags.DEFINE_string("system", None, "A system message, for the model's chat template.")


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the command line asks for, checked. ids: the document's; None: it is loaded."""

    config: EvalConfig
    mesh: Mesh
    directory: str  # of the checkpoint
    row: Row
    form: Form
    ids: list[int] | None


def main(argv: Sequence[str]) -> None:
    """Checks all that can be checked, then loads the model and encodes the document."""
    del argv
    job = _checked()
    with devices.compile_cache(job.config.compile_cache_dir):
        say(devices.describe_mesh(job.mesh))
        engine = Engine.from_pretrained(
            job.directory,
            mesh=job.mesh,
            attention=job.row.attention,
            dtype=job.config.model.dtype,
            cache_dtype=job.row.cache_dtype,
            keep=job.row.keep,
            implementation=job.config.attention.implementation or None,
        )
        warnings.simplefilter("ignore", Advice)  # it has been said when the document was encoded
        session = Session(_begun(engine, job))
        for i, question in enumerate(flags.FLAGS.question):
            say(*[""] * (i > 0), f"> {question}")
            session.ask(question)
        if not flags.FLAGS.question:
            session.run(keyboard.keyboard(flags.FLAGS.context))


def _begun(engine: Engine, job: _Job) -> Dialogue:
    """The document, encoded or loaded."""
    generation = job.config.generation
    if job.ids is not None:
        return Dialogue.about(
            engine,
            job.ids,
            form=job.form,
            generation=generation,
            watch=lambda prefilling, before: watch(prefilling, before),
        )
    path, form = os.path.expanduser(flags.FLAGS.context), job.form
    context = engine.load_context(path)
    if not isinstance(context, Context):
        raise ValueError(f"--context={path} is a batch of contexts, and a dialogue is about one")
    if isinstance(form, InTemplate) and not form.fits(context.tokens[0]):
        form = Plain(engine.tokenizer)
        say(f"what was saved does not begin as the model's chat template: questions {form.name}")
    dialogue = Dialogue(engine, context, form=form, generation=generation)
    say(
        f"loaded {len(dialogue.document.tokens[0])} tokens, and {len(dialogue.turns)} of a dialogue"
    )
    return dialogue


def _checked() -> _Job:
    config = config_lib.resolve_answering(flags.FLAGS.config)
    if config.mesh.coordinator:
        raise NotImplementedError("a dialogue runs in one process: leave out mesh.coordinator")
    config.generation.max_new_tokens = config.generation.max_new_tokens or _MAX_NEW_TOKENS
    _check_flags()
    text, saved = _document()
    if text is None:
        _check_saved(config)
    mesh = devices.make_mesh(config.mesh, prefix="--config.mesh.")
    asked = config.attention.implementation or None
    implementations.resolve(asked, mesh)  # before anything is fetched
    directory = checkpoint.resolve(config.model.path)
    model = models.read(directory)
    positions = model.max_position_embeddings
    limits.check_tokens(
        "generation.max_new_tokens", config.generation.max_new_tokens, positions=positions
    )
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"{config.model.path} has no tokenizer files, and a dialogue is text")
    form = _form(tokenizer)
    ids = None if text is None else form.document(text)
    if ids is not None:
        limits.check_tokens("the document's tokens", len(ids), positions=positions)
    if saved is None:
        row = _row(config, len(ids or []))
    else:
        row = Row(kinds.of_fields(saved.attention), cache_dtype=saved.fingerprint["cache"])
    engine_lib.check(
        mesh,
        row.attention,
        asked,
        config=model,
        dtype=config.model.dtype,
        cache_dtype=row.cache_dtype,
        keep=row.keep,
    )
    return _Job(config, mesh, directory, row, form, ids)


def _check_flags() -> None:
    given = flags.FLAGS
    if not given.context:
        raise ValueError("--context is empty: name a document, or - for the standard input")
    if not all(question.strip() for question in given.question):
        raise ValueError("--question is empty")
    for name, text in [("question", one) for one in given.question] + [("system", given.system)]:
        Prompt.of(text or "", f"--{name}")
    if not given.question:
        keyboard.check(given.context)


def _check_saved(config: EvalConfig) -> None:
    """Refuses settings of what is kept, which a document that was saved does not read."""
    found = rows_at(AttentionConfig(kind="star"), None, config.cache)
    if any(row.keep is not None or row.cache_dtype is not None for row in found):
        raise ValueError(
            "--config.cache is for a new document: one that was saved is kept as it was"
        )


def _document() -> tuple[str | None, About | None]:
    """The text of the document; or what is said of one that was saved."""
    path = os.path.expanduser(flags.FLAGS.context)
    if not os.path.isdir(path):
        return documents.read(path), None
    if flags.FLAGS.system is not None:
        raise ValueError(f"--system is for a new document: what is in {path} has begun already")
    if not os.path.isfile(about := os.path.join(path, ABOUT)):
        raise ValueError(f"--context={path} is a directory, and no dialogue was saved there")
    return None, About.of(json_files.read(about))


def _form(tokenizer: Tokenizer) -> Form:
    system = flags.FLAGS.system
    if tokenizer.has_chat_template:
        return InTemplate(tokenizer, system)
    if system is not None:
        raise ValueError("--system needs a chat template, and the model has none")
    form = Plain(tokenizer)
    say(f"the model has no chat template: it is asked {form.name}")
    return form


def _row(config: EvalConfig, length: int) -> Row:
    """The one way to encode that the configuration gives; L in it is the document's length.

    It is rounded up: else L/4 of 4317 tokens would be 1079, and the last one a block of its own.
    """
    length = -(-length // _ROUND) * _ROUND
    return only_row(config.attention, length, config.cache, of="a dialogue")


if __name__ == "__main__":
    define_flags()
    cli.run(
        main,
        check=config_lib.check_arguments,
        more_help=lambda: help.text(leaving_out=_UNREAD),
        interrupted="what was not saved is gone",
    )
