"""Places for output: made and unmade, held by one run alone, and never anything but files."""

import errno
import fcntl
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from star_jax.runs import places


def test_an_output_directory_is_made_and_goes_again_if_nothing_came(tmp_path: pathlib.Path) -> None:
    deep = tmp_path / "a" / "b"
    with places.writable(str(deep)):
        assert deep.is_dir()
    assert os.listdir(tmp_path) == []
    with places.writable(str(deep)):
        (deep / "file").touch()
    assert (deep / "file").exists()
    with places.writable(str(tmp_path / "a")):
        pass
    assert (deep / "file").exists()


def test_an_output_directory_that_was_empty_before_stays(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    with places.writable(str(tmp_path / "a" / "b")):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_an_output_directory_that_cannot_be_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b", pathlib.Path("/dev/null/x")):
        with (
            pytest.raises(OSError, match=f"cannot make the output directory {path}"),
            places.writable(str(path)),
        ):
            pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_must_not_be_written_to_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with (
        pytest.raises(PermissionError, match="cannot write to the output directory"),
        places.writable(str(tmp_path / "a")),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_two_runs_in_one_place_are_refused(tmp_path: pathlib.Path) -> None:
    hold = (
        "import sys, time; from star_jax.runs import places\n"
        f"with places.output_directory({str(tmp_path)!r}):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match="another run is writing to it"),
            places.output_directory(str(tmp_path)),
        ):
            pass
        other.kill()
    with places.output_directory(str(tmp_path)):
        pass


def test_a_file_system_without_locks_is_used_without(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with places.output_directory(str(tmp_path)):
        pass


def test_a_locked_file_is_made_and_goes_again_if_nothing_came(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.jsonl"
    with places.output_file(str(path)):
        assert path.exists()
    assert not path.exists()
    with places.output_file(str(path)):
        path.write_bytes(b"x")
    assert path.read_bytes() == b"x"
    path.write_bytes(b"")
    with places.output_file(str(path)):
        pass
    assert path.exists()  # it had been there


HOLDERS = {"directory": places.output_directory, "file": places.output_file}


@pytest.mark.parametrize("kind", HOLDERS)
def test_the_one_that_is_refused_takes_nothing_from_the_one_that_holds(
    tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loser has made the place itself, or at least found that it was not there yet."""
    path, flock = tmp_path / "new" / "out", fcntl.flock
    others: list[int] = []

    def lose(file: int, how: int) -> None:
        if not others:  # between opening and locking, another run comes first
            others.append(os.open(path, os.O_RDONLY))
            flock(others[0], how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", lose)
    with pytest.raises(ValueError, match="another run is writing"), HOLDERS[kind](str(path)):
        pass
    assert path.exists()
    os.close(others[0])


@pytest.mark.parametrize("kind", HOLDERS)
def test_what_goes_away_while_it_is_locked_is_made_again(
    tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run that ends with nothing unmakes the place that this one has just opened."""
    path, flock = tmp_path / "new" / "out", fcntl.flock
    unmade: list[bool] = []

    def unmake(file: int, how: int) -> None:
        if not unmade:
            path.rmdir() if kind == "directory" else path.unlink()
            path.parent.rmdir()
            unmade.append(True)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", unmake)
    with HOLDERS[kind](str(path)):
        file = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # it is the one at the path that is held
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)
    assert unmade
    assert os.listdir(tmp_path) == []


def make_pipe(path: pathlib.Path) -> None:
    os.mkfifo(path)


def make_socket(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


IRREGULAR: dict[str, Callable[[pathlib.Path], None]] = {
    "a directory": pathlib.Path.mkdir,
    "a pipe": make_pipe,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/full"),
    "a symbolic link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("what", IRREGULAR)
@pytest.mark.parametrize("is_linked", [False, True])
def test_only_regular_files_are_held(tmp_path: pathlib.Path, what: str, is_linked: bool) -> None:
    path = tmp_path / "out"
    IRREGULAR[what](path)
    if is_linked:
        path = tmp_path / "link"
        path.symlink_to("out")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"{path} is {what}"), places.output_file(str(path)):
        pass
    assert sorted(tmp_path.iterdir()) == before


def test_a_link_stays_whatever_becomes_of_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("deep/file")
    for text in ("", "x"):
        with places.output_file(str(tmp_path / "link")):
            (tmp_path / "link").write_text(text)
        assert (tmp_path / "deep" / "file").exists() == bool(text)
        assert (tmp_path / "link").is_symlink()
