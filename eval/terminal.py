"""What a command says: text that may come from files, made fit for a terminal."""

import sys
import warnings

_SPACES = dict.fromkeys("\n\r\t", " ")


def printable(text: str) -> str:
    r"""The text on one line, with what a terminal would obey, or could not show, as `\x1b`."""
    return "".join(c if c.isprintable() else _SPACES.get(c, _escaped(c)) for c in text)


def say(*lines: str) -> None:
    """Prints lines on stderr."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def warn_in_lines() -> None:
    """From now on a warning is one line on stderr, without a line of our source."""

    def show(message: Warning | str, category: type[Warning], *where: object) -> None:
        del category, where
        say(f"warning: {str(message).removeprefix('star_jax: ')}")

    warnings.showwarning = show  # type: ignore[assignment]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
