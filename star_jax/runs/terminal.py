"""What a command says, line by line: text that may come from files is made fit for a terminal."""

import sys
import warnings

from star_jax.printable import printable
from star_jax.runtime import processes


def say(*lines: str) -> None:
    """Prints lines on stderr; of several processes the first does."""
    if not processes.is_first():
        return
    for line in lines:
        print(printable(line), file=sys.stderr)


def warn_in_lines() -> None:
    """From now on a warning is one line on stderr, said once, without a line of our source.

    Python's own filter tells apart who called, and a command reads some files twice.
    """
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        del category, where
        if (text := str(message)) not in said:
            said.add(text)
            say(f"warning: {text.removeprefix('star_jax: ')}")

    warnings.showwarning = show  # type: ignore[assignment]
