"""`python -m star_jax.serve` as a command: it serves, ends gracefully, and refuses in one line."""

import os
import re
import signal
import socket
import time
from typing import Any

import commands
import httpx
import openai
import pytest
import serving

NEEDLE = str(commands.REPOSITORY / "checkpoints" / "needle")
FLAGS = {
    "config": str(commands.REPOSITORY / "configs" / "serve.py"),
    "config.model.path": NEEDLE,
    "config.model.dtype": "float32",
    "config.attention.block_size": "64",
    "port": "0",
}
HIDDEN = """
import importlib.util, runpy
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "uvicorn" else find_spec(name, *a)
runpy.run_module("star_jax.serve", run_name="__main__", alter_sys=True)
"""


def argv(flags=()):
    given = {**FLAGS, **dict(flags)}
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def test_sigterm_ends_it_when_what_was_asked_is_answered(tmp_path):
    env = {"STAR_JAX_API_KEY": "from the environment"}
    command = commands.Command(
        tmp_path, "star_jax.serve", *argv({"served_model_name": "n"}), env=env
    )
    try:
        at = where(tmp_path)
        client = serving.client(at, "from the environment")
        with pytest.raises(openai.AuthenticationError):
            serving.client(at, "another").models.list()
        how = {"model": "n", "prompt": "The sky is", "max_tokens": 60, "temperature": 0}
        how["extra_body"] = {"ignore_eos": True}
        create: Any = client.completions.create
        whole = create(**how).choices[0].text
        stream = create(**how, stream=True)
        text = next(stream).choices[0].text
        os.kill(command.pid, signal.SIGTERM)
        assert text + "".join(chunk.choices[0].text for chunk in stream) == whole
        result = command.result()
        assert result.code == 0 and "Traceback" not in result.stderr
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{at}/health")
    finally:
        command.kill()


def where(folder):
    """Where the command serves, when it does."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        said = (folder / "stderr").read_text() if (folder / "stderr").exists() else ""
        if found := re.search(r"^serving \S+ on (http://127.0.0.1:\d+)$", said, re.MULTILINE):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(said)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"config": "nowhere.py"}, "--config=nowhere.py"),
        ({"config.model.path": ""}, "model.path"),
        ({"config.model.path": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"config.attention.kind": "star,ring"}, "2 ways (star_b64_a64, ring)"),
        ({"config.cache.dtype": "model,int8"}, "2 ways (star_b64_a64, star_b64_a64_int8)"),
        ({"config.cache.keep": "0.5"}, "cache.keep"),
        ({"config.attention.kind": "wizard"}, "wizard"),
        ({"config.attention.block_size": "L/4"}, "without L"),
        ({"config.mesh.data": 2}, "mesh.data"),
        ({"config.mesh.context": 7}, "cpu_devices=7"),
        ({"max_model_len": 99999}, "--max_model_len=99999"),
        ({"max_answers": 0}, "--max_answers=0 must be at least 1"),
        ({"store_disk_gb": -1}, "--store_disk_gb=-1"),
        ({"request_timeout": 0}, "--request_timeout=0"),
        ({"host": "no.such.host.invalid"}, "--host=no.such.host.invalid"),
        ({"port": 99999}, "--port=99999"),
    ],
    ids=lambda x: "" if isinstance(x, str) else "-".join(x),
)
def test_bad_flags_are_one_line(tmp_path, flags, message):
    assert message in commands.run(tmp_path, "star_jax.serve", *argv(flags)).error


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = commands.run(tmp_path, "star_jax.serve", *argv({"port": port})).error
    assert f"--port={port}" in error


def test_what_is_not_installed_is_named(tmp_path):
    error = commands.run(tmp_path, "star_jax.serve", *argv(), code=HIDDEN).error
    assert error == "error: uvicorn not installed: pip install 'star-jax[serve]'"
