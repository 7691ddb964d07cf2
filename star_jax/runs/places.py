"""Places for output: made, checked, held for one run alone, and unmade if nothing came."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from star_jax import interrupts


def check_regular(path: str) -> None:
    """Refuses what is there and is no regular file.

    A device would be written to, or read, without end, and a pipe would wait for another process.

    Raises:
      ValueError: names the path, and what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise ValueError(f"{path} is a symbolic link to itself") from e
        return  # not there, or not to be reached: opening it says why
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        kind = kinds.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"{path} is {kind}: only a regular file will do")


@contextlib.contextmanager
def writable(directory: str) -> Iterator[None]:
    """Makes a directory, checks that it can be written to, and unmakes it if it stays empty."""
    with interrupts.held() as released:  # or a signal could leave what has just been made
        made = _make(directory)
        try:
            _check_writable(directory)
            with released():
                yield
        finally:
            _unmake(made)


@contextlib.contextmanager
def output_directory(directory: str) -> Iterator[None]:
    """`writable`, and held for this process alone: two runs would mix their records.

    Raises:
      ValueError: another run holds it.
    """
    made: list[str] = []

    def open_directory() -> int:
        made[:0] = _make(directory)
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    with interrupts.held() as released:
        file = _hold(directory, open_directory)  # refused, it must not unmake what another holds
        try:
            _check_writable(directory)
            with released():
                yield
        finally:
            _unmake(made)
            os.close(file)


@contextlib.contextmanager
def output_file(path: str) -> Iterator[None]:
    """A regular file that is held for this process alone: made if needed, unmade if it stays empty.

    Raises:
      ValueError: another run holds it, or it is no regular file.
    """
    real = os.path.realpath(path)  # of a link, what it points to is made and unmade
    directory = os.path.dirname(real)
    made: list[str] = []
    is_made = False

    def open_file() -> int:
        nonlocal is_made
        check_regular(path or os.curdir)
        made[:0] = _make(directory)
        _check_writable(directory)
        is_made = False
        with contextlib.suppress(FileExistsError):
            file = os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            is_made = True
            return file
        return os.open(real, os.O_RDWR)

    with interrupts.held() as released:
        try:
            file = _hold(real, open_file)
            try:
                with released():
                    yield
            finally:
                if is_made and not os.fstat(file).st_size:
                    os.unlink(real)
                os.close(file)
        finally:
            _unmake(made)


def _hold(path: str, open_it: Callable[[], int]) -> int:
    """Opens and locks. What another run unmakes between the two is opened again."""
    for _ in range(100):
        try:
            file = open_it()
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(file)
            raise ValueError(f"{path}: another run is writing to it; wait for it, or end it") from e
        except OSError:
            pass  # some cluster file systems have no locks; better unguarded than useless there
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)
    raise FileNotFoundError(f"{path} goes away as often as it is made")


def _make(directory: str) -> list[str]:
    """Makes a directory and its parents; returns those that were not there, innermost first."""
    made = []
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as e:
        _unmake(made)
        raise OSError(f"cannot make the output directory {directory}: {e.strerror}") from e
    return made


def _unmake(made: Sequence[str]) -> None:
    for path in made:
        with contextlib.suppress(OSError):  # not empty: it has become of use
            os.rmdir(path)


def _check_writable(directory: str) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to the output directory {directory}")
