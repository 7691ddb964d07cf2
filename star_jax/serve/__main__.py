"""Serves a model by the OpenAI protocol; long documents are encoded once.

    python -m star_jax.serve --config=configs/serve.py --config.model.path=DIR

A client asks http://127.0.0.1:8000/v1 as it would ask OpenAI: chat completions and completions,
streamed or not. Also /v1/models, /tokenize, /detokenize, /health and /metrics. Ctrl-C or SIGTERM
end the server when the requests under way are answered; said again, they end it at once.

The configuration is that of an evaluation: of it `model`, `attention` (one kind, sizes in tokens),
`mesh` and `compile_cache_dir` are read.
"""

import dataclasses
import importlib.util
import ipaddress
import signal
import socket
import time
import warnings
from collections.abc import Sequence

from absl import flags as absl_flags
from jax.sharding import Mesh
from ml_collections import config_flags  # type: ignore[import-untyped]

from star_jax import attention as implementations
from star_jax import checkpoint, models
from star_jax import engine as engine_lib
from star_jax.advice import Advice
from star_jax.engine import Engine
from star_jax.eval import config as config_lib
from star_jax.eval import help
from star_jax.eval.config import EvalConfig
from star_jax.eval.rows import Row, needs_length, only_row
from star_jax.runs import cli, devices
from star_jax.runs.terminal import say
from star_jax.serve import flags
from star_jax.serve.flags import Settings
from star_jax.store import Store
from star_jax.text.tokenizer import Tokenizer

NEEDED = ("prometheus_client", "pydantic", "starlette", "uvicorn")


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the command line asks for, checked."""

    config: EvalConfig
    settings: Settings
    mesh: Mesh
    directory: str  # of the checkpoint
    row: Row


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "A file with a get_config().")
    absl_flags.mark_flag_as_required("config")
    flags.define_flags()
    absl_flags.adopt_module_key_flags(flags)  # for --help


def main(argv: Sequence[str]) -> None:
    """Checks all that can be checked, then loads the model and serves."""
    del argv
    job = _checked()
    with _listen(job.settings) as listening, devices.compile_cache(job.config.compile_cache_dir):
        say(devices.describe_mesh(job.mesh))
        engine = Engine.from_pretrained(
            job.directory,
            mesh=job.mesh,
            attention=job.row.attention,
            dtype=job.config.model.dtype,
            cache_dtype=job.row.cache_dtype,
            implementation=job.config.attention.implementation or None,
        )
        warnings.simplefilter("ignore", Advice)  # prompts have all lengths, and one setting
        _serve(engine, job.settings, listening)


def _checked() -> _Job:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} not installed: pip install 'star-jax[serve]'")
    config = config_lib.resolve_answering(absl_flags.FLAGS.config)
    settings = flags.read()
    if config.mesh.coordinator or config.mesh.data != 1:
        raise NotImplementedError(
            "a server runs in one process, and encodes one context at a time: leave out "
            "mesh.coordinator and mesh.data, and let mesh.context devices share it"
        )
    row = _row(config)
    mesh = devices.make_mesh(config.mesh, prefix="--config.mesh.")
    asked = config.attention.implementation or None
    implementations.resolve(asked, mesh)  # before anything is fetched
    directory = checkpoint.resolve(config.model.path)
    model = models.read(directory)
    dtype, cache_dtype = config.model.dtype, row.cache_dtype
    engine_lib.check(mesh, row.attention, asked, config=model, dtype=dtype, cache_dtype=cache_dtype)
    if Tokenizer.from_pretrained(directory) is None:
        raise ValueError(f"{config.model.path} has no tokenizer files, and requests are text")
    if settings.positions > (most := model.max_position_embeddings):
        raise ValueError(f"--max_model_len={settings.positions} is above the model's {most}")
    settings = dataclasses.replace(
        settings,
        name=settings.name or config.model.path.rstrip("/"),
        positions=(positions := settings.positions or most),
        body=settings.body or flags.TOKEN_BYTES * positions + flags.MORE_BYTES,
    )
    return _Job(config, settings, mesh, directory, row)


def _row(config: EvalConfig) -> Row:
    """The one way to encode that the configuration gives, for prompts of all lengths."""
    if needs_length(config.attention):
        raise ValueError("prompts have all lengths: give attention's sizes in tokens, without L")
    row = only_row(config.attention, None, config.cache, of="a server")
    if row.keep is not None:
        raise NotImplementedError(
            "cache.keep: a server shares beginnings of contexts, and fewer keys serve whole blocks"
        )
    return row


def _listen(settings: Settings) -> socket.socket:
    """The socket; before the model is loaded, so that a port that is taken is told at once."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as e:
        raise OSError(f"cannot listen on --host={settings.host} --port={settings.port}: {e}") from e
    address = ipaddress.ip_address(listening.getsockname()[0])
    if not address.is_loopback and not settings.api_key:
        say(f"warning: others can reach {address}, and there is no --api_key or {flags.API_KEY}")
    return listening


def _serve(engine: Engine, settings: Settings, listening: socket.socket) -> None:
    from star_jax.serve.app import Service  # what it needs may not be installed
    from star_jax.serve.bodies import Bodies
    from star_jax.serve.metrics import Metrics
    from star_jax.serve.prompts import Reader
    from star_jax.serve.scheduler import Limits, Scheduler
    from star_jax.serve.server import Server

    limits = Limits(
        waiting=settings.waiting,
        answers=settings.answers,
        query=settings.query_tokens,
        seconds=settings.seconds,
        stored=settings.device_bytes,
    )
    store = Store(
        engine,
        device_bytes=settings.device_bytes,
        host_bytes=settings.host_bytes,
        directory=settings.directory or None,
        disk_bytes=settings.disk_bytes,
    )
    service = Service(
        model=settings.name,
        reader=Reader(
            engine=engine,
            positions=settings.positions,
            new_tokens=settings.new_tokens,
            samples=settings.answers,
        ),
        scheduler=Scheduler(engine, store, limits=limits, metrics=Metrics(settings.name)),
        bodies=Bodies(settings.body),
        token=settings.api_key,
        created=int(time.time()),
    )
    server = Server(service, listening)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    host, port = listening.getsockname()[:2]
    say(f"serving {settings.name} on http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run()


if __name__ == "__main__":
    define_flags()
    cli.run(
        main,
        check=config_lib.check_arguments,
        more_help=help.text,
        interrupted="nothing was served yet",
    )
