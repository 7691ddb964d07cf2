"""Converts a checkpoint of safetensors to an Orbax checkpoint, which loads the same.

    python -m star_jax.convert --input=DIR_OR_HUB_ID --output=DIR

The output holds the weights (an Orbax checkpoint in `weights`), config.json, and the files of
the tokenizer: give its path wherever a model's path is asked for. The host needs memory for one
tensor, whatever the checkpoint's size. Nothing is left behind if it fails.
"""

import glob
import json
import math
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Sequence

from absl import flags

from star_jax import checkpoint, interrupts, json_files, models
from star_jax.checkpoint import orbax_files, tensor_files
from star_jax.engine import DTYPES
from star_jax.models import quantization
from star_jax.runs import cli
from star_jax.runtime import mesh as mesh_lib

_STORED = "stored"


def define_flags() -> None:
    """The command's; not on import, since `infer` has a --dtype of its own."""
    flags.DEFINE_string("input", None, "A directory, or a hub id.", required=True)
    flags.DEFINE_string("output", None, "The directory to make.", required=True)
    flags.DEFINE_enum("dtype", _STORED, (_STORED, *DTYPES), "Of the weights in the output.")


def main(argv: Sequence[str]) -> None:
    """Converts what the flags say."""
    del argv
    given = flags.FLAGS
    mesh_lib.simulate_cpu_devices(1)  # no accelerator is needed, nor taken
    begin = time.monotonic()
    dtype = None if given.dtype == _STORED else given.dtype
    try:
        size = convert(given.input, given.output, dtype=dtype)
    except (ValueError, OSError) as e:
        raise ValueError(_in_flags(str(e))) from e
    seconds = time.monotonic() - begin
    print(f"{given.output}: {size / 1e9:.3f} GB of weights in {seconds:.1f} s", file=sys.stderr)


def _in_flags(message: str) -> str:
    """A message of `convert`, which begins with its argument, with the flag that gave that."""
    flag = {"source": "--input", "output": "--output"}
    return re.sub(r"^(source|output)(?=[= ])", lambda match: flag[match[1]], message)


def convert(source: str, output: str, *, dtype: str | None = None) -> int:
    """Writes an Orbax checkpoint with the contents of another; returns its weights' bytes.

    Args:
      source: a directory with safetensors, or a hub id.
      output: a directory that is not there yet, or is empty; its parent is there.
      dtype: to cast the weights to; None keeps each as it is stored. Weights in 8 bits are
        written dequantised, and need one.

    Raises:
      FileNotFoundError, ValueError, NotImplementedError: the checkpoint cannot be read, or is
        none that `checkpoint.load` would load.
      ValueError: the output is there already, or a dtype is needed.
      OSError: it cannot be written.
    """
    if not output:
        raise ValueError("output is empty: name the directory to make")
    parent, name = os.path.split(os.path.abspath(os.path.expanduser(output)))
    output = os.path.join(parent, name)
    if not os.path.isdir(parent):
        raise ValueError(f"{output=}: {parent} is not a directory")
    if os.path.lexists(output) and not (os.path.isdir(output) and not os.listdir(output)):
        raise ValueError(f"{output=} is there already")
    parent, name = os.path.split(os.path.realpath(output))  # it may be a link to an empty one
    directory = checkpoint.resolve(source)
    if orbax_files.is_here(directory):
        raise ValueError(f"{source=} is converted already")
    stored = models.read_quantization(directory)
    if stored is not None and dtype is None:
        raise ValueError(
            f"{source=} has weights in {stored.name}, which are written dequantised: name a "
            f"dtype for them, {' or '.join(DTYPES)}"
        )
    sources = _sources(directory, dtype)
    size = sum(math.prod(s.shape) * s.dtype.itemsize for s in sources.values())
    if size > (free := shutil.disk_usage(parent).free):
        raise OSError(f"{output=}: {size} bytes of weights, and {free} are free")

    # On another node a process may have the same number.
    partial = os.path.join(parent, f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    with interrupts.held() as released:
        try:
            with released():
                os.mkdir(partial)
                _copy_small_files(directory, partial)
                orbax_files.write(partial, sources)
                os.rename(partial, os.path.join(parent, name))
        except OSError as e:  # which may name a file of the partial output, or none
            raise OSError(f"{output=} could not be written: {e.strerror or e}") from e
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return size


def _copy_small_files(directory: str, output: str) -> None:
    """Configuration and tokenizer; the configuration of weights that are not in 8 bits."""
    for pattern in checkpoint.SMALL_FILES:
        for path in glob.glob(os.path.join(glob.escape(directory), pattern)):
            if os.path.isfile(path):
                shutil.copyfile(path, os.path.join(output, os.path.basename(path)))
    if models.read_quantization(directory) is not None:
        fields = json_files.read(os.path.join(directory, "config.json"))
        with open(os.path.join(output, "config.json"), "w", encoding="utf-8") as file:
            json.dump(quantization.without(fields), file, indent=2)


def _sources(directory: str, dtype: str | None) -> dict[str, orbax_files.Source]:
    """The tensors of the model, by name; those that it does not need (a tied head) are left out."""
    config = models.read(directory)
    tensors = checkpoint.find(directory, config, mesh=mesh_lib.make_mesh())
    found: dict[str, orbax_files.Source] = {}

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
        tensor = tensors[name]
        if isinstance(tensor, orbax_files.Tensor):
            raise ValueError(f"{name} is not in a safetensors file")
        stored = tensor_files.DTYPES[tensor.dtype]
        heads = [axes.index(axis) for axis in ("heads", "kv_heads", "experts") if axis in axes]
        found[name] = orbax_files.Source(
            tensor=tensor,
            shape=shape,
            dtype=stored if dtype is None else orbax_files.DTYPES[dtype],
            head_axis=heads[0] if heads else None,
        )

    models.build(config, make)
    return found


if __name__ == "__main__":
    define_flags()
    cli.run(main, interrupted="nothing is left behind, and the same command starts over")
