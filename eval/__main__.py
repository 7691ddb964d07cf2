"""Asks questions about long contexts with several kinds of attention, and compares the answers.

    python -m star_jax.eval --config=configs/demo.py --config.attention.block_size=L/4,512

Any field of the configuration can be set with --config.SECTION.FIELD; --help lists them.
A run that was stopped goes on from where it was when the same command is given again.
"""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags  # type: ignore[import-untyped]

from star_jax.eval import config, help, runner
from star_jax.runs import cli
from star_jax.runtime import processes

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file with a get_config().")
flags.mark_flag_as_required("config")


def main(argv: Sequence[str]) -> None:
    del argv
    table = runner.run(config.resolve(_CONFIG.value))
    with cli.printing():
        if processes.is_first():
            print(table)


if __name__ == "__main__":
    cli.run(main, check=config.check_arguments, more_help=help.text)
