"""How a command ends: every expected failure is one line on stderr and an exit code."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from star_jax.text.printable import printable


def run(
    main: Callable[[Sequence[str]], None],
    *,
    check: Callable[[Sequence[str]], None] = lambda argv: None,
) -> NoReturn:
    """`absl.app.run(main)`; `check` sees the arguments before absl parses them.

    Bad input (ValueError), what is not supported (NotImplementedError) and trouble with files
    (OSError) end with one line that names it. Anything else is a defect, and keeps its
    traceback.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        check(argv)
        try:
            rest = flags.FLAGS(argv)
        except Exception as e:  # a config file is code: anything may go wrong in it
            name = "" if isinstance(e, flags.Error | OSError) else f"{type(e).__name__}: "
            raise ValueError(f"in the command line or config file: {name}{e}") from e
        if len(rest) > 1:
            raise ValueError(f"unexpected {rest[1:]}: options are written --name=value")
        return rest

    try:
        app.run(main, flags_parser=parse)
    except (ValueError, NotImplementedError, OSError) as e:
        sys.exit(f"error: {printable(str(e))}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    raise AssertionError("app.run() returned")
