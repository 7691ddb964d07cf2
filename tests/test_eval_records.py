"""Record files: whatever a killed run leaves, what is whole is kept and the rest is cut off."""

import errno
import fcntl
import json
import os
import pathlib
import subprocess
import sys

import pytest

from star_jax.eval import records

INDICES = [10, 11, 12, 13, 14]


def record(index: int) -> dict[str, object]:
    return {"index": index, "pred": f'"é\n{index}', "score": 0.5}


def lines(indices: list[int]) -> bytes:
    return b"".join(json.dumps(record(i)).encode() + b"\n" for i in indices)


def test_batches_are_fixed_by_position() -> None:
    assert records.batches(5, 2) == [range(2), range(2, 4), range(4, 5)]
    assert records.batches(4, 2) == [range(2), range(2, 4)]
    assert records.batches(0, 2) == []
    # One sample more changes the last batch alone.
    assert records.batches(6, 2)[:2] == records.batches(5, 2)[:2]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_recovers_from_a_cut_at_every_byte(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "r.jsonl"
    whole = lines(INDICES)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = records.recover(str(path), INDICES, size)
        complete = whole[:cut].count(b"\n")
        expected = complete if complete == len(INDICES) else complete - complete % size
        assert [one["index"] for one in found] == INDICES[:expected], cut
        assert path.read_bytes() == lines(INDICES[:expected])
        assert records.recover(str(path), INDICES, size) == found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_going_on_after_a_cut_gives_the_whole_file(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "sub" / "r.jsonl"
    whole = lines(INDICES)
    for cut in range(0, len(whole) + 1, 7):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole[:cut])
        done = len(records.recover(str(path), INDICES, size))
        for batch in records.batches(len(INDICES), size):
            if batch.stop > done:
                records.append(str(path), [record(INDICES[i]) for i in batch])
        assert path.read_bytes() == whole
        assert records.read(str(path)) == [record(i) for i in INDICES]


def test_a_short_last_batch_is_done_again_when_samples_are_added(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(lines(INDICES))
    assert len(records.recover(str(path), [*INDICES, 15, 16], 2)) == 4
    assert path.read_bytes() == lines(INDICES[:4])


def test_no_file_is_nothing_done(tmp_path: pathlib.Path) -> None:
    assert records.recover(str(tmp_path / "none.jsonl"), INDICES, 2) == []
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines([10]) + b"nonsense\n" + lines([12]), ":2: not a record"),
        (lines([10]) + b"[1]\n", ":2: not a record"),
        (lines([10]) + b"{}\n", ":2: not a record"),
        (lines([10, 12]), ":2: index=12 where 11 belongs"),
        (lines([*INDICES, 15]), ":6: there are only 5 samples"),
    ],
)
def test_whole_lines_that_do_not_belong_are_an_error_and_stay(
    tmp_path: pathlib.Path, text: bytes, says: str
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        records.recover(str(path), INDICES, 2)
    assert f"{path}{says}" in str(error.value)
    assert path.read_bytes() == text


def test_atomic_writes_replace_the_whole_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.md"
    (tmp_path / "s.md.part").write_text("left by a run that was killed, and longer than the rest")
    for text in ("one\n", "é\r\n"):
        records.write_atomically(str(path), text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["s.md"]


def test_the_manifest_refuses_other_settings_by_name(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "manifest.json")
    settings = {"data.seed": 1, "lengths": (1, 2), "data.path": {"a": "b"}}
    records.check_manifest(path, settings, num_samples=3)  # none yet: anything goes
    records.write_manifest(path, settings, num_samples=3)
    records.check_manifest(path, settings, num_samples=3)
    records.check_manifest(path, settings, num_samples=4)
    with pytest.raises(ValueError, match=r"data\.seed was 1 and is 2; lengths was .* Use another"):
        records.check_manifest(path, settings | {"data.seed": 2, "lengths": (1,)}, num_samples=3)
    with pytest.raises(ValueError, match="new was None and is 3"):
        records.check_manifest(path, settings | {"new": 3}, num_samples=3)
    with pytest.raises(ValueError, match="num_samples was 3 and is 2, and it can only grow"):
        records.check_manifest(path, settings, num_samples=2)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3}', '{"num_samples": 3}'])
def test_a_broken_manifest_is_an_error(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a manifest"):
        records.check_manifest(str(path), {}, num_samples=3)


def test_an_output_directory_is_made_and_goes_again_if_nothing_came(tmp_path: pathlib.Path) -> None:
    deep = tmp_path / "a" / "b"
    with records.writable(str(deep)):
        assert deep.is_dir()
    assert os.listdir(tmp_path) == []
    with records.writable(str(deep)):
        (deep / "file").touch()
    assert (deep / "file").exists()
    with records.writable(str(tmp_path / "a")):
        pass
    assert (deep / "file").exists()


def test_an_output_directory_that_was_empty_before_stays(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    with records.writable(str(tmp_path / "a" / "b")):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_an_output_directory_that_cannot_be_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b", pathlib.Path("/dev/null/x")):
        with (
            pytest.raises(OSError, match=f"cannot make the output directory {path}"),
            records.writable(str(path)),
        ):
            pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_must_not_be_written_to_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with (
        pytest.raises(PermissionError, match="cannot write to the output directory"),
        records.writable(str(tmp_path / "a")),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_two_runs_in_one_place_are_refused(tmp_path: pathlib.Path) -> None:
    hold = (
        "import sys, time; from star_jax.eval import records\n"
        f"with records.locked({str(tmp_path)!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match="another run is writing to it"),
            records.locked(str(tmp_path)),
        ):
            pass
        other.kill()
    with records.locked(str(tmp_path)):
        pass


def test_a_file_system_without_locks_is_used_without(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with records.locked(str(tmp_path)):
        pass


def test_a_locked_file_is_made_and_goes_again_if_nothing_came(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.jsonl"
    with records.locked(str(path), make=True):
        assert path.exists()
    assert not path.exists()
    with records.locked(str(path), make=True):
        records.append(str(path), [record(1)])
    assert path.read_bytes() == lines([1])
    path.write_bytes(b"")
    with records.locked(str(path), make=True):
        pass
    assert path.exists()  # it had been there
