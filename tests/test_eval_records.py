"""Record files: whatever a killed run leaves, what is whole is kept and the rest is cut off."""

import json
import os
import pathlib
import resource

import pytest

from star_jax.runs import records

INDICES = [10, 11, 12, 13, 14]


def record(index: int) -> dict[str, object]:
    numbers = dict.fromkeys(records._NUMBERS, 1.5)
    return {"index": index, "pred": f'"é\n{index}', "score": 0.5, **numbers}


def lines(indices: list[int]) -> bytes:
    return b"".join(json.dumps(record(i)).encode() + b"\n" for i in indices)


def test_batches_are_fixed_by_position() -> None:
    def missing(*args: int) -> list[range]:
        return list(records.missing(*args))

    assert missing(0, 5, 2) == [range(2), range(2, 4), range(4, 5)]
    assert missing(0, 4, 2) == [range(2), range(2, 4)]
    assert missing(0, 0, 2) == missing(5, 5, 2) == missing(4, 4, 2) == []
    # What is missing of a batch is answered alone, and the next ones are where they were.
    assert missing(1, 5, 2) == [range(1, 2), range(2, 4), range(4, 5)]
    assert missing(5, 7, 4) == [range(5, 7)]
    assert missing(5, 9, 4) == [range(5, 8), range(8, 9)]


def test_a_billion_samples_are_no_list() -> None:
    assert next(records.missing(0, 10**9, 2)) == range(2)


def test_recovers_from_a_cut_at_every_byte(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = lines(INDICES)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        found = records.recover(str(path), INDICES)
        expected = whole[:cut].count(b"\n")
        assert [one["index"] for one in found] == INDICES[:expected], cut
        assert path.read_bytes() == lines(INDICES[:expected])
        assert records.recover(str(path), INDICES) == found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_going_on_after_a_cut_gives_the_whole_file(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "sub" / "r.jsonl"
    whole = lines(INDICES)
    for cut in range(0, len(whole) + 1, 7):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole[:cut])
        done = len(records.recover(str(path), INDICES))
        for batch in records.missing(done, len(INDICES), size):
            records.append(str(path), [record(INDICES[i]) for i in batch])
        assert path.read_bytes() == whole
        assert records.read(str(path)) == [record(i) for i in INDICES]


def test_a_short_last_batch_stays_when_samples_are_added(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(lines(INDICES))
    assert len(records.recover(str(path), [*INDICES, 15, 16])) == 5
    assert path.read_bytes() == lines(INDICES)


def test_no_file_is_nothing_done(tmp_path: pathlib.Path) -> None:
    assert records.recover(str(tmp_path / "none.jsonl"), INDICES) == []
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines([10]) + b"nonsense\n" + lines([12]), ":2: not a record"),
        (lines([10]) + b"[1]\n", ":2: not a record"),
        (lines([10]) + b"{}\n", ":2: not a record"),
        (lines([10]) + b"[" * 100_000 + b"\n", ":2: not a record"),
        (b'{"index":10,"score":' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}\n", ":1: not a"),
        (lines([10]).replace(b"0.5", b"NaN"), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"1.5", b'"1"'), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"0.5", b"true"), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"0.5", b"1" + b"0" * 400), ":1: not a record"),
        (lines([10]).replace(b"0.5", b"7"), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"0.5", b"-0.5"), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"1.5", b"-1.5"), ":1: not a record: score, counts and seconds are"),
        (lines([10]).replace(b"1.5", b"1" + b"0" * 308), ":1: not a record: score, counts and"),
        (lines([10]).replace(b'"score"', b'"scare"'), ":1: not a record"),
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
        records.recover(str(path), INDICES)
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
    records.write_manifest(path, settings | {"x" * 10**6: "y" * 10**6}, num_samples=3)
    with pytest.raises(ValueError, match=r"x{99} was 'y+[.]{3}y+' and is None") as error:
        records.check_manifest(path, settings, num_samples=3)
    assert len(str(error.value)) < 1000
    with pytest.raises(ValueError, match="num_samples was 3 and is 2, and it can only grow"):
        records.check_manifest(path, settings, num_samples=2)


def test_a_disk_that_is_full_is_named_and_nothing_is_left(tmp_path: pathlib.Path) -> None:
    """A limit on the size of files, which fails in the middle of a write as a full disk does."""
    old, new = tmp_path / "old.jsonl", tmp_path / "a" / "b" / "new.jsonl"
    manifest, summary = tmp_path / "manifest.json", tmp_path / "summary.csv"
    begun = tmp_path / "begun.json"
    records.write_manifest(str(begun), {}, num_samples=3)
    written = begun.read_bytes()
    old.write_bytes(lines([10]))
    before = sorted(tmp_path.rglob("*"))
    many = [record(i) for i in range(11, 300)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        for path in (old, new):
            with pytest.raises(OSError, match=f"cannot write: .*{path}"):
                records.append(str(path), many)
        with pytest.raises(OSError, match=f"cannot write: .*{new}"):
            records.append_first(str(new), many, manifest=str(manifest), settings={}, num_samples=3)
        with pytest.raises(OSError, match=f"cannot write: .*{new}"):
            records.append_first(str(new), many, manifest=str(begun), settings={}, num_samples=9)
        with pytest.raises(OSError, match=f"cannot write: .*{summary}"):
            records.write_atomically(str(summary), "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.rglob("*")) == before
    assert old.read_bytes() == lines([10])
    assert begun.read_bytes() == written  # a run that was to get more samples is as it was


def test_the_manifest_of_a_run_that_had_begun_stays_when_the_disk_is_full(
    tmp_path: pathlib.Path,
) -> None:
    manifest = tmp_path / "manifest.json"
    records.write_manifest(str(manifest), {}, num_samples=3)
    (tmp_path / "r.jsonl").mkdir()  # cannot be appended to either
    with pytest.raises(ValueError, match="a directory"):
        records.append_first(
            str(tmp_path / "r.jsonl"), [], manifest=str(manifest), settings={}, num_samples=3
        )
    assert manifest.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"settings": 3}',
        '{"num_samples": 3}',
        '{"settings": 3, "num_samples": 3}',
        '{"settings": {}, "num_samples": "3"}',
        "[" * 100_000,
        '{"settings": ' * 100_000,
        '{"settings": {}, "num_samples": 3, "num_samples": 0}',
    ],
    ids=range(11),
)
def test_a_broken_manifest_is_an_error(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a manifest"):
        records.check_manifest(str(path), {}, num_samples=3)
