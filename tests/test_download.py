"""Files that are fetched, from a server on this machine and a hub that is none."""

import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import commands
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from star_jax.eval import download

SQUAD = json.dumps({"data": ["x" * 3000]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves SQUAD, in ranges if it is told to, and ends too early if it is told to."""

    ranges, stops_at, body, asked = True, 0, SQUAD, list[str | None]()

    def do_GET(self) -> None:
        if self.path != "/dev-v2.0.json":
            self.send_error(404)
            return
        given = self.headers.get("Range")
        self.asked.append(given)
        start = int(re.findall(r"\d+", given)[0]) if given and self.ranges else 0
        if start and start >= len(self.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        self.wfile.write(self.body[start : self.stops_at or None])

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Mine(Handler):
        asked: list[str | None] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/dev-v2.0.json"
        monkeypatch.setattr(download, "SQUAD", url)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield Mine
        server.shutdown()
        thread.join()


@pytest.fixture(name="hub")
def _hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """Data sets, each with its files."""
    table = pyarrow.table({"title": ["a", "b"], "text": ["One two.", "Three\n four."]})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    files = {
        "namlh2004/hotpotqa": {"hotpot_dev_distractor_v1.json": b"[]", "other.json": b""},
        "baber/paul_graham_essays": {"essays.parquet": sink.getvalue().to_pybytes()},
        "RMT-team/babilong-1k-samples": {
            "README.md": b"",
            "16k/qa1-00000-of-00001.parquet": b"PAR1",
            "16k/qa2-00000-of-00001.parquet": b"PAR2",
            "128k/qa1-00000-of-00001.parquet": b"PAR3",
        },
        "xinrongzhang2022/InfiniteBench": {"passkey.jsonl": b"{}", "README.md": b""},
    }

    def fetch(repo_id: str, filename: str, *, repo_type: str, local_dir: str) -> str:
        assert repo_type == "dataset"
        path = pathlib.Path(local_dir, filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[repo_id][filename])
        return str(path)

    def listed(repo_id: str, *, repo_type: str) -> list[str]:
        assert repo_type == "dataset"
        return list(files[repo_id])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", listed)
    return files


def there(folder: pathlib.Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_files_of_ruler(
    tmp_path: pathlib.Path, server: type[Handler], hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    download.download(["ruler"], str(tmp_path / "s"))
    assert there(tmp_path / "s") == ["PaulGrahamEssays.json", "hotpotqa.json", "squad.json"]
    assert (tmp_path / "s/squad.json").read_bytes() == SQUAD
    assert (tmp_path / "s/hotpotqa.json").read_bytes() == b"[]"
    essays = json.loads((tmp_path / "s/PaulGrahamEssays.json").read_text())
    assert essays == {"text": "One two. Three\n four."}
    said = capsys.readouterr().err
    digest = hashlib.sha256(SQUAD).hexdigest()
    assert f"squad.json: {len(SQUAD)} bytes, sha256 {digest}\n" in said
    assert f"ruler: data.sources={tmp_path}/s" in said

    hub.clear()  # nothing is fetched that is there
    download.download(["ruler"], str(tmp_path / "s"))
    assert f"sha256 {digest} (it was there)" in capsys.readouterr().err
    assert server.asked == [None]


def test_the_files_of_the_hub_by_pattern(tmp_path: pathlib.Path, hub: Any) -> None:
    download.download(["babilong"], str(tmp_path), only=["16k/*", "*/qa2*"])
    names = ["babilong/16k/qa1-00000-of-00001.parquet", "babilong/16k/qa2-00000-of-00001.parquet"]
    assert there(tmp_path) == names
    assert (tmp_path / names[1]).read_bytes() == b"PAR2"
    download.download(["babilong", "infinitebench"], str(tmp_path))
    more = ["babilong/128k/qa1-00000-of-00001.parquet", "infinitebench/passkey.jsonl"]
    assert there(tmp_path) == sorted(names + more)
    with pytest.raises(ValueError, match=r"'32k/\*' matches none of 128k/qa1-00000-of-00001"):
        download.download(["babilong"], str(tmp_path), only=["32k/*"])


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("stops_at", [1, 1000, len(SQUAD) - 1])
def test_a_fetch_that_ends_early_goes_on(
    tmp_path: pathlib.Path, server: type[Handler], hub: Any, ranges: bool, stops_at: int
) -> None:
    path = tmp_path / "squad.json"
    server.ranges, server.stops_at = ranges, stops_at
    with pytest.raises(OSError, match=r"could not be fetched: .*too early"):
        download.download(["ruler"], str(tmp_path), only=["squad*"])
    assert there(tmp_path) == ["squad.json.part"]
    server.stops_at = 0
    download.download(["ruler"], str(tmp_path), only=["squad*"])
    assert path.read_bytes() == SQUAD
    assert there(tmp_path) == ["squad.json"]
    assert server.asked == [None, f"bytes={stops_at}-"]


@pytest.mark.parametrize("left", [SQUAD, SQUAD + b"more", b"<html>" * 999])
def test_what_was_left_and_is_too_long_is_fetched_anew(
    tmp_path: pathlib.Path, server: type[Handler], left: bytes
) -> None:
    (tmp_path / "squad.json.part").write_bytes(left)
    download.from_url(download.SQUAD, str(tmp_path / "squad.json"))
    assert (tmp_path / "squad.json").read_bytes() == SQUAD


def test_what_is_no_json_is_not_kept(tmp_path: pathlib.Path, server: type[Handler]) -> None:
    server.body = b"<html>log in first</html>"
    with pytest.raises(ValueError, match=r"dev-v2\.0\.json gave no JSON"):
        download.from_url(download.SQUAD, str(tmp_path / "squad.json"))
    assert there(tmp_path) == []


def test_trouble_is_one_line(
    tmp_path: pathlib.Path, server: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match=r"/none could not be fetched: Not Found"):
        download.from_url(download.SQUAD.replace("dev-v2.0.json", "none"), str(tmp_path / "a"))
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9/a could not be fetched: .*refused"):
        download.from_url("http://127.0.0.1:9/a", str(tmp_path / "a"))
    assert there(tmp_path) == []

    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("we couldn't connect\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fails)
    for name, what in (
        ("ruler", "hotpot_dev_distractor_v1.json of the data set namlh2004/hotpotqa"),
        ("babilong", "the data set RMT-team/babilong-1k-samples"),
    ):
        with pytest.raises(OSError, match="hub") as error:
            download.download([name], str(tmp_path / "b"), only=["h*", "1*"])
        expected = f"{what} could not be fetched from the hub: we couldn't connect"
        assert str(error.value) == expected
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--download"], "--download needs --sources"),
        (["--download=rulers", "--sources=s"], "--download: 'rulers' is unknown; there is ruler"),
        (["--download", "--sources=s", "--config=c.py"], "give --download or --config"),
        (["--download=infinitebench", "--sources=s"], "the data set xinrongzhang2022/Infin"),
        (["--download", "--sources=c.py"], "cannot make the output directory c.py"),
        (["--nodownload"], "missing --config"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: pathlib.Path, argv: list[str], says: str
) -> None:
    (tmp_path / "c.py").write_text("def get_config():\n    return 3\n")
    before = set(os.listdir(tmp_path))
    found = commands.run(tmp_path, "star_jax.prepare", *argv, env={"HF_HUB_OFFLINE": "1"})
    assert says in found.error
    assert set(os.listdir(tmp_path)) - before == {"stdout", "stderr"}


def test_the_command_fetches(tmp_path: pathlib.Path, server: type[Handler]) -> None:
    code = f"""
import runpy, sys
from star_jax.eval import download
download.SQUAD = {download.SQUAD!r}
sys.argv = ["prepare", "--download", "--sources=s", "--only=squad*"]
runpy.run_module("star_jax.prepare", run_name="__main__")
"""
    found = commands.run(tmp_path, "", code=code)
    assert found.code == 0, found.stderr
    assert there(tmp_path / "s") == ["squad.json"]
