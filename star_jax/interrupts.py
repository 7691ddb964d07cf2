"""How signals end a command: with one line, and after what it holds has been tidied up.

Python raises a signal's exception wherever the main thread is. In a callback, of a garbage
collection say, or in a bare `except:`, it is lost: then it is raised again, until it is not.
"""

import contextlib
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 0.05  # seconds


class Interrupt(KeyboardInterrupt):
    """A signal is to end the command."""

    def __init__(self) -> None:
        super().__init__()
        _now.alive = weakref.ref(self)


class _Now:
    """What is the case: all that a signal's handler can know."""

    def __init__(self) -> None:
        self.came: signal.Signals | None = None  # the first one
        self.raises = False  # inside `raised`
        self.is_held = False  # inside `held`
        self.then = "nothing has been done yet"
        self.alive: Callable[[], Interrupt | None] = lambda: None  # what has been raised


_now = _Now()


def is_ours(arguments: Sequence[str]) -> bool:
    """Whether Python's arguments name a command of this package: `-m star_jax.eval`."""
    modules = [argument.removeprefix("-m") for argument in arguments]
    return any(module.split(".")[0] == "star_jax" for module in modules)


def catch() -> None:
    """From now on a signal ends the command with one line; what is ignored (see nohup) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


@contextlib.contextmanager
def raised(then: str) -> Iterator[None]:
    """Inside, a signal raises Interrupt, and so tidies up on the way out; then the command ends.

    then: what its last line says after "interrupted by SIGTERM; ".
    """
    catch()
    _now.then = then
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, Interrupt):  # that one comes again
            before(unraisable)

    sys.unraisablehook = hook
    try:
        _now.raises = True
        yield
    except Interrupt:
        pass
    finally:
        _now.raises = False
        if _now.came is not None:
            _end()


@contextlib.contextmanager
def held() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Inside, no signal raises: what is begun is finished, and then it raises.

    It yields what lets signals raise further inside, unless they are held outside as well.
    """
    before = _now.is_held
    with _hold(True):
        yield lambda: _hold(before)


@contextlib.contextmanager
def _hold(is_held: bool) -> Iterator[None]:
    before = _now.is_held
    _now.is_held = is_held
    try:
        _raise()
        yield
    finally:
        _now.is_held = before
    _raise()


def _note(number: int, frame: object) -> None:
    """What a signal does."""
    del frame
    if _now.came is None:
        _now.came = signal.Signals(number)
    if not _now.raises:
        _end()
    signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
    _raise()


def _raise(*args: object) -> None:
    """Raises, if a signal has come; but nothing breaks the tidying up that has begun with it.

    While the exception that was raised is alive, it is on its way out.
    """
    del args
    if _now.came is not None and _now.raises and not _now.is_held and _now.alive() is None:
        raise Interrupt


def _end() -> NoReturn:
    """Ends at once: nothing is left to tidy up, and libraries would log as Python ends."""
    assert _now.came is not None
    with contextlib.suppress(OSError):  # it may be closed
        os.write(2, f"interrupted by {_now.came.name}; {_now.then}\n".encode())
    os._exit(1)
