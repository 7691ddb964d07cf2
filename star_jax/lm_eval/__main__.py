"""Runs lm-evaluation-harness, with Star Attention as one of its models.

    python -m star_jax.lm_eval run --model star_jax --tasks=babilong_qa1 \\
        --model_args pretrained=DIR,attention=star,block_size=16384,context=8

The command line is the harness's own (run, ls, validate). Of the model `star_jax`, these are
--model_args:

  pretrained               a local directory, or a hub id
  attention                star, dense, ring or ulysses
  block_size, anchor_size  of star, in tokens; the anchor is a block unless it is given
  halo, correction, stride of star, to win back what blocks lose
  dtype                    bfloat16, float16 or float32
  data, context, tensor    the axes of the mesh
  cpu_devices              how many to simulate
  max_length               tokens of prompt and answer; the model's positions unless it is given
  cut                      where a prompt's query begins: auto (at the task's question, or its last
                           line), line (its last line), or a number: so many tokens at its end
  enable_thinking          True or False, for chat templates that know of it

--batch_size is the number of contexts that are encoded at once.
"""

import importlib.util
import os
import sys
import warnings

import star_jax
from star_jax import interrupts
from star_jax.advice import Advice
from star_jax.printable import printable
from star_jax.runs import cli, terminal

_MISSING = (
    "error: lm-evaluation-harness is not installed: pip install 'star-jax[lm_eval]', "
    "or pip install lm_eval"
)


def main(argv: list[str]) -> None:
    if argv[:1] in (["--version"], ["-version"]):
        with cli.printing():
            print(f"star_jax {star_jax.__version__}")
        return
    if not argv or argv[0] in ("-h", "--help", "-help"):
        with cli.printing():
            print(__doc__)
    if importlib.util.find_spec("lm_eval") is None:
        sys.exit(_MISSING)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch
    from lm_eval.__main__ import cli_evaluate

    from star_jax.lm_eval import model  # noqa: F401  which the harness then knows by name

    cli_evaluate()


if __name__ == "__main__":
    terminal.warn_in_lines()
    warnings.simplefilter("ignore", Advice)  # prompts have all lengths, and one setting
    with interrupts.raised("answers are kept with --use_cache alone"):
        try:
            main(sys.argv[1:])
        except (ValueError, NotImplementedError, OSError) as e:
            sys.exit(f"error: {printable(' '.join(str(e).split()))}")
