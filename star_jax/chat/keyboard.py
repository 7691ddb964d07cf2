"""What a person types: lines, with an editor on a terminal, and Ctrl-C."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from star_jax.chat.documents import STDIN

PROMPT = "> "


@runtime_checkable
class Keyboard(Protocol):
    """Where lines come from."""

    typed: str  # what was on the line when Ctrl-C was pressed

    def line(self) -> str | None:
        """The next line; None at the end. Raises KeyboardInterrupt at Ctrl-C."""
        ...


class Pipe:
    """Lines of the standard input, where that is no terminal."""

    typed = ""

    def line(self) -> str | None:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None


class Terminal:
    """A line editor with history, in memory alone.

    It reads from the terminal, also where the standard input was the document.
    """

    typed = ""

    def __init__(self) -> None:
        import prompt_toolkit  # slow to import
        from prompt_toolkit.input import create_input
        from prompt_toolkit.output import create_output

        self._session: prompt_toolkit.PromptSession[str] = prompt_toolkit.PromptSession(
            input=create_input(always_prefer_tty=True),
            output=create_output(always_prefer_tty=True),
        )

    def line(self) -> str | None:
        try:
            return self._session.prompt(PROMPT)
        except EOFError:
            return None
        except KeyboardInterrupt:
            self.typed = self._session.default_buffer.text
            raise


def check(context: str) -> None:
    """Refuses a document from a standard input where then nobody could ask.

    Raises:
      ValueError: there is no terminal, or it is the standard input.
    """
    if context == STDIN and not (sys.stderr.isatty() or sys.stdout.isatty()):
        raise ValueError(
            "--context=- reads the standard input, and there is no terminal to ask from: "
            "give --question"
        )


def keyboard(context: str) -> Keyboard:
    """The terminal, if there is one; `context` is where the document came from."""
    return Terminal() if sys.stdin.isatty() or context == STDIN else Pipe()


class Stop:
    """Ctrl-C, as a session takes it; `is_busy` says whether there is anything to stop.

    The first asks to stop where that is safe. Another one, or one while nothing is done, raises
    KeyboardInterrupt. Then no other is heard until `listen`: what is said about it is not cut off.
    """

    def __init__(self) -> None:
        self.is_asked = self.is_busy = self.is_deaf = False

    def listen(self) -> None:
        """From now on there is nothing to stop, and Ctrl-C is heard."""
        self.is_asked = self.is_busy = self.is_deaf = False

    def begin(self) -> None:
        """From now on there is something to stop."""
        self.is_asked, self.is_busy = False, True

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Inside, Ctrl-C never ends the program."""
        before = signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, number: int, frame: object) -> None:
        del number, frame
        if self.is_deaf:
            return
        if self.is_asked or not self.is_busy:
            self.is_deaf = True
            raise KeyboardInterrupt
        self.is_asked = True
