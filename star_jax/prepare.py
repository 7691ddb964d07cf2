"""Draws the questions of an evaluation and writes them down, for runs that are to come.

    python -m star_jax.prepare --config=configs/demo.py --output=prepared
    python -m star_jax.eval --config=configs/demo.py --config.data.prepared=prepared

    python -m star_jax.prepare --download=ruler,babilong --sources=DIR --only='*.json,16k/*'

It takes eval's configuration, of the model the tokenizer alone, and no device. The same command
goes on from where it was; with more tasks, lengths or samples it adds what is missing. Scores do
not depend on it: eval reads the very questions that it would draw. With --download it fetches the
files that suites need, where there is a network, and does nothing else.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags  # type: ignore[import-untyped]

from star_jax import checkpoint
from star_jax.eval import config as config_lib
from star_jax.eval import download, help, prepared
from star_jax.eval.config import AttentionConfig, EvalConfig
from star_jax.eval.lists import items
from star_jax.eval.suites import SUITES
from star_jax.runs import cli, limits
from star_jax.text.tokenizer import Tokenizer

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file with a get_config().")
_OUTPUT = flags.DEFINE_string("output", "", "The directory to write to; else data.prepared.")
_DOWNLOAD: flags.FlagHolder[str] = flags.DEFINE_flag(
    flags.Flag(
        flags.ArgumentParser(),
        None,
        "download",
        "",
        "Of which suites to fetch the files: ruler,babilong,infinitebench; without a value ruler.",
        boolean=True,  # it may be given without a value
    )
)
_SOURCES = flags.DEFINE_string("sources", "", "The directory to fetch files to.")
_ONLY = flags.DEFINE_list("only", [], "Fetches what matches one of these patterns: 16k/*,passkey*.")


def main(argv: Sequence[str]) -> None:
    del argv
    if _DOWNLOAD.value not in ("", "false"):
        if _CONFIG.value is not None:
            raise ValueError("give --download or --config: files are fetched, or questions drawn")
        if not _SOURCES.value:
            raise ValueError("--download needs --sources: say where the files go")
        names = "ruler" if _DOWNLOAD.value == "true" else _DOWNLOAD.value
        download.download(items("--download", names), _SOURCES.value, only=_ONLY.value)
        return
    for name, value in (("--sources", _SOURCES.value), ("--only", _ONLY.value)):
        if value:
            raise ValueError(f"{name} is of --download; questions are drawn from data.sources")
    if _CONFIG.value is None:
        raise ValueError("missing --config; --help says what there is")
    prepare(config_lib.resolve(_CONFIG.value), _OUTPUT.value)


def prepare(config: EvalConfig, output: str = "") -> None:
    """Writes the questions of a checked configuration to `output`, or else to data.prepared."""
    output = output or config.data.prepared
    if not output:
        raise ValueError("data.prepared is empty: say where the questions go, or give --output")
    for length in SUITES[config.data.suite].lengths(config.data):
        limits.check_tokens("data.lengths", length or 0, positions=limits.MOST_POSITIONS)
    directory = checkpoint.resolve(config.model.path, without_weights=True)
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"{config.model.path} has no tokenizer files, and questions are text")
    # Questions do not depend on what they are asked with.
    alone = dataclasses.replace(config, attention=AttentionConfig(kind="dense"))
    cells = list(SUITES[config.data.suite].cells(alone, tokenizer))
    prepared.write(output, cells, config, tokenizer)


if __name__ == "__main__":
    cli.run(main, check=config_lib.check_arguments, more_help=help.text)
