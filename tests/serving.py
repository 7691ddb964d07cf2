"""A server in this process, over a small random model, for tests."""

import contextlib
import pathlib
import socket
import threading
from collections.abc import Iterator

import openai
import test_tokenizer
import tiny

import star_jax
from star_jax import Engine, Star
from star_jax.serve.app import Service
from star_jax.serve.bodies import Bodies
from star_jax.serve.metrics import Metrics
from star_jax.serve.prompts import Reader
from star_jax.serve.scheduler import Limits, Scheduler
from star_jax.serve.server import Server
from star_jax.store import Store

QUERY, BLOCK, CONTEXT = 16, 32, 2
LIMITS = Limits(waiting=256, answers=8, query=QUERY, seconds=600.0, stored=2**30)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def engine(directory: pathlib.Path) -> Engine:
    test_tokenizer.save(directory, adds="<s> $A")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return Engine(
        tiny.model(num_hidden_layers=1, vocab_size=272, eos_token_id=1, bos_token_id=0),
        mesh=star_jax.make_mesh(context=CONTEXT),
        attention=Star(block_size=BLOCK),
        tokenizer=test_tokenizer.load(directory),
    )


def service(engine: Engine, *, limits: Limits = LIMITS, token: str = "") -> Service:
    metrics = Metrics("tiny")
    scheduler = Scheduler(
        engine, Store(engine, device_bytes=limits.stored), limits=limits, metrics=metrics
    )
    reader = Reader(engine=engine, positions=4096, new_tokens=64, samples=8)
    return Service(
        model="tiny", reader=reader, scheduler=scheduler, bodies=Bodies(2**16), token=token
    )


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    """Where the server is, while it runs."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(service, listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield "http://{}:{}".format(*listening.getsockname())
    finally:
        server.stop()
        thread.join()


def client(at: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{at}/v1", api_key=key, max_retries=0, timeout=600)
