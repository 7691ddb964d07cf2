"""How a command begins and ends: help, version, and one line on stderr for every failure."""

import contextlib
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags

import star_jax
from star_jax import interrupts
from star_jax.printable import printable
from star_jax.runs import terminal
from star_jax.runtime import processes

_REASON = 200  # characters
_HELP = {"h": True, "help": True, "?": True, "helpshort": True, "helpfull": False}


def run(
    main: Callable[[Sequence[str]], None],
    *,
    check: Callable[[Sequence[str]], None] = lambda argv: None,
    more_help: Callable[[], str] = str,
    takes: str = "",
    interrupted: str = "the same command goes on from here",
) -> NoReturn:
    """`absl.app.run(main)`; `check` sees the arguments before absl parses them.

    `--help` and `--version` print to stdout, and exit with 0; `more_help` comes after the flags.
    `takes` names the arguments that are no flags; without it there may be none.
    Bad input (ValueError), what is not supported (NotImplementedError) and trouble with files
    (OSError) end with one line that names it, and so do Ctrl-C, SIGTERM and SIGHUP: the line ends
    in `interrupted`. Anything else is a defect, and keeps its traceback.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        _inform(argv, more_help)
        check(argv)
        try:
            rest = flags.FLAGS(argv)
        except Exception as e:  # a config file is code: anything may go wrong in it
            if "must have a value other than None" in str(e):
                raise ValueError(f"missing {_missing()}; --help says what there is") from e
            name = "" if isinstance(e, flags.Error | OSError) else f"{type(e).__name__}: "
            # ml_collections puts the traceback of a config file into its message.
            said, _, trace = str(e).partition("Traceback (most recent call last)")
            said += trace.rstrip().rpartition("\n")[2]
            raise ValueError(f"in the command line or config file: {name}{said}") from e
        if len(rest) > 1 and not takes:
            raise ValueError(f"unexpected {rest[1:]}: options are written --name=value")
        return rest

    def run_main(argv: Sequence[str]) -> None:
        main(argv)
        with printing():
            pass

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch
    terminal.warn_in_lines()
    with interrupts.raised(interrupted):
        try:
            app.run(run_main, flags_parser=parse)
        except (ValueError, NotImplementedError, OSError) as e:
            processes.end(f"error: {printable(' '.join(str(e).split()))}")
        except jax.errors.JaxRuntimeError as e:
            if processes.count() == 1:
                raise
            if reason := processes.lost(e):
                reason = printable(reason)[:_REASON]
                processes.end(f"error: another process may have ended; see what it says: {reason}")
            traceback.print_exc()
            processes.end("error: the computation failed")
        except Exception:
            if processes.count() == 1:
                raise
            traceback.print_exc()
            processes.end("error: this is a defect")
    raise AssertionError("app.run() returned")


def _inform(argv: Sequence[str], more_help: Callable[[], str]) -> None:
    """Prints help or the version and ends, if that is asked for."""
    for argument in itertools.takewhile(lambda a: a != "--", argv[1:]):
        name = argument.removeprefix("-").removeprefix("-") if argument[:1] == "-" else ""
        name = name.removesuffix("=true")
        if name == "version":
            with printing():
                print(f"star_jax {star_jax.__version__}")
            sys.exit(0)
        if name in _HELP:
            with printing():
                app.usage(shorthelp=_HELP[name], writeto_stdout=True)
                print(more_help(), end="")
            sys.exit(0)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """What is printed inside is written out at its end.

    Raises:
      OSError: that fails, the disk is full say; it names the standard output.
    """
    try:
        yield
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
    except OSError as e:  # it would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"cannot write to the standard output: {e.strerror}") from e


def _missing() -> str:
    """The flags that are needed and were not given: `--a, --b`."""
    ours = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return ", ".join(f"--{flag.name}" for flag in ours if flag.validators and flag.value is None)
