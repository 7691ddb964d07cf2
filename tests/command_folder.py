"""A folder with all that a command line needs, and the two commands run in it."""

import atexit
import functools
import json
import pathlib
import shutil
import tempfile
from typing import Any

import commands
import fake_engine

CONFIG = """
from star_jax.eval import config

def get_config():
    return config.EvalConfig(
        model=config.ModelConfig(path="checkpoint", dtype="float32"),
        attention=config.AttentionConfig(kind="dense,star", block_size="L/4", anchor_size="b"),
        mesh=config.MeshConfig(data=2, context=2, cpu_devices=4),
        data=config.DataConfig(tasks="niah_single_1", lengths="600", num_samples=3),
        generation=config.GenerationConfig(max_new_tokens=4),
        output_dir="out",
    )
"""
QUESTIONS = [
    {"index": 5, "input_context": "the grass is green. " * 4, "input_query": "is it?"},
    {"index": 3, "input_context": "the sky.", "input_query": "is the sky blue?", "output": "b"},
    {"index": 9, "input_context": "it is the end " * 9, "input_query": "is", "outputs": ["x", "y"]},
]
INFER = {
    "model_path": "checkpoint",
    "attn_type": "star",
    "block_size": 16,
    "tokens_to_generate": 4,
    "input_path": "in.jsonl",
    "output_path": "out.jsonl",
}


@functools.cache
def _checkpoint() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    fake_engine.save_checkpoint(pathlib.Path(folder.name), weights=True)
    return folder


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Puts a checkpoint, a config file, and questions there."""
    shutil.copytree(_checkpoint().name, folder / "checkpoint")
    (folder / "config.py").write_text(CONFIG)
    write_lines(folder / "in.jsonl", *QUESTIONS)
    (folder / "stdout").touch()  # what the command says goes there
    (folder / "stderr").touch()
    return folder


def write_lines(path: pathlib.Path, *lines: dict[str, Any] | str) -> None:
    text = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_text("".join(f"{line}\n" for line in text))


def evaluate(here: pathlib.Path, *argv: str) -> commands.Result:
    return commands.run(here, "star_jax.eval", "--config=config.py", *argv)


def infer(here: pathlib.Path, *argv: str, fake: bool = False, **flags: Any) -> commands.Result:
    given = [f"--{name}={value}" for name, value in (INFER | flags).items() if value is not None]
    return commands.run(here, "star_jax.infer", *given, *argv, fake=fake)


def files(here: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(here)): path.read_bytes() if path.is_file() else b""
        for path in here.rglob("*")
        if path.name not in ("stdout", "stderr")
    }


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the fields that differ from run to run."""
    return {name: value for name, value in record.items() if not name.startswith("time_")}
