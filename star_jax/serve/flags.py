"""The flags of `python -m star_jax.serve`, beside its configuration."""

import dataclasses
import os
from typing import Any

from absl import flags

from star_jax.sizes import whole

API_KEY = "STAR_JAX_API_KEY"  # of the environment
TOKEN_BYTES, MORE_BYTES = 16, 2**16  # of a request: for each token it may have, and beside them
_GIB = 2**30
_TEXTS = {
    "host": ("127.0.0.1", "The address to listen on."),
    "api_key": ("", f"The bearer token of clients; empty: what {API_KEY} says, or none."),
    "served_model_name": ("", "What clients call the model; empty: as the configuration does."),
    "store_dir": ("", "Contexts that find no room in memory are kept here; empty: they are not."),
}
_NUMBERS = {  # the default, the least, and what it is
    "port": (8000, 0, "0: a free one, which is printed."),
    "query_tokens": (128, 1, "Tokens at a prompt's end that are asked exactly, at least."),
    "max_model_len": (0, 0, "Tokens of prompt and answer together, at most; 0: the model's."),
    "max_new_tokens": (4096, 1, "Tokens of an answer, at most."),
    "max_answers": (64, 1, "Answers under way at once, at most."),
    "max_waiting": (1024, 1, "Prompts in the queue, at most."),
    "max_body_bytes": (
        0,
        0,
        "Bytes of a request, at most; 0: 16 a token of max_model_len, and 64 KiB.",
    ),
    "request_timeout": (600, 1, "Seconds for a request, with its time in the queue."),
    "store_device_gb": (4, 1, "GiB of contexts on each device, at most."),
    "store_host_gb": (16, 0, "GiB of contexts in host memory, at most."),
    "store_disk_gb": (64, 0, "GiB of contexts in store_dir, at most."),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the flags say, checked; sizes in tokens and bytes."""

    host: str
    port: int
    api_key: str
    name: str  # empty: the model's path
    query_tokens: int
    positions: int  # 0: the model's
    new_tokens: int
    answers: int
    waiting: int
    body: int  # 0: as many as the positions need
    seconds: float
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    directory: str


def define_flags() -> None:
    for name, (text, what) in _TEXTS.items():
        flags.DEFINE_string(name, text, what)
    for name, (number, _, what) in _NUMBERS.items():
        flags.DEFINE_integer(name, number, what)


def read() -> Settings:
    """The settings.

    Raises:
      ValueError: a number is too small; it names the flag.
    """
    given: Any = flags.FLAGS
    number = {
        name: whole(f"--{name}", getattr(given, name), least=least, most=2**40)
        for name, (_, least, _) in _NUMBERS.items()
    }
    return Settings(
        host=given.host,
        port=number["port"],
        api_key=given.api_key or os.environ.get(API_KEY, ""),
        name=given.served_model_name,
        query_tokens=number["query_tokens"],
        positions=number["max_model_len"],
        new_tokens=number["max_new_tokens"],
        answers=number["max_answers"],
        waiting=number["max_waiting"],
        body=number["max_body_bytes"],
        seconds=float(number["request_timeout"]),
        device_bytes=number["store_device_gb"] * _GIB,
        host_bytes=number["store_host_gb"] * _GIB,
        disk_bytes=number["store_disk_gb"] * _GIB,
        directory=given.store_dir,
    )
