"""Runs the project's commands as processes of their own, without importing everything anew.

Run as a script, this is a server: it imports what the commands import, and then forks a child
for each command that it is sent, which runs it as `python -m` would. The test's end is `run`.
"""

import atexit
import contextlib
import csv
import functools
import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

REPOSITORY = pathlib.Path(__file__).parent.parent
# Of PYTHONPATH: the library, and nothing of PyTorch, which users need not have either.
AS_USERS = f"{REPOSITORY}:{REPOSITORY / 'tests' / 'no_torch'}"


class Result:
    def __init__(self, code: int, stdout: str, stderr: str):
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def error(self) -> str:
        """The one line that a failed command says."""
        assert self.code > 0, (self.code, self.stdout, self.stderr)
        assert "Traceback" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert self.stderr.splitlines()[-1] == lines[0], self.stderr
        return lines[0]


@functools.cache
def _server() -> subprocess.Popen[str]:
    environment = {
        "PYTHONDONTWRITEBYTECODE": "1",  # tests compare all files that a command leaves
        "PYTHONPATH": f"{AS_USERS}:{REPOSITORY / 'tests'}",
    }
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    atexit.register(server.communicate)  # closes its stdin, and so ends it
    return server


class Command:
    """`python -m module argv...` under way in a folder; with `fake`, on the fake engine.

    code: what is run in place of a module, as `python -c` would run it. number: which of those it
    is that run side by side. What each says goes to files of its own.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        module: str,
        *argv: str,
        fake: bool = False,
        env: Mapping[str, str] | None = None,
        code: str = "",
        number: int = 0,
    ):
        server = _server()
        assert server.stdin
        assert server.stdout
        self._files = [folder / f"{name}{number or ''}" for name in ("stdout", "stderr")]
        self._ends = pathlib.Path(tempfile.mkdtemp()) / "code"
        request = {
            "module": module,
            "argv": argv,
            "code": code,
            "fake": fake,
            "env": dict(env or {}),
            "folder": str(folder),
            "files": list(map(str, self._files)),
            "ends": str(self._ends),
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        self.pid = int(server.stdout.readline())

    def _has_ended(self, within: float) -> bool:
        end = time.monotonic() + within
        while not self._ends.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return self._ends.exists()

    def kill(self, after: float = 0.0) -> None:
        """Kills it after so many seconds, if it has not ended before."""
        if not self._has_ended(within=after):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def result(self) -> Result:
        """Waits until it has ended."""
        assert self._has_ended(within=600)
        code = int(self._ends.read_text())
        shutil.rmtree(self._ends.parent)
        return Result(code, *(file.read_text() for file in self._files))


def run(
    folder: pathlib.Path,
    module: str,
    *argv: str,
    fake: bool = False,
    env: Mapping[str, str] | None = None,
    code: str = "",
    kill_after: float | None = None,
) -> Result:
    """Runs a command to its end; see `Command`."""
    command = Command(folder, module, *argv, fake=fake, env=env, code=code)
    if kill_after is not None:
        command.kill(kill_after)
    return command.result()


def results(folder: pathlib.Path) -> dict[str, object]:
    """Everything in an output folder, timing fields aside."""
    return {
        str(path.relative_to(folder)): _without_times(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _without_times(path: pathlib.Path) -> object:
    text = path.read_text()
    if path.suffix == ".jsonl":
        assert text.endswith("\n")
        return [_drop_times(json.loads(line)) for line in text.splitlines()]
    if path.name == "summary.csv":
        rates = {"time_prefill_rate", "time_per_token"}
        return [_drop_times(row, rates) for row in csv.DictReader(text.splitlines())]
    if path.name == "summary.md":  # the last three columns
        return [line.rsplit("|", 4)[0] for line in text.splitlines()]
    return text


def _drop_times(fields: dict[str, object], more: set[str] | None = None) -> dict[str, object]:
    times = {name for name in fields if name.startswith("time_")}
    assert times == {"time_prefill", "time_decode", "time_compile"} | (more or set())
    return {name: value for name, value in fields.items() if name not in times}


def _child(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    for number, name in enumerate(request["files"], start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(request["env"])
    if request["fake"]:
        import fake_engine

        from star_jax import engine
        from star_jax.eval import runner

        for module in (engine, runner):
            setattr(module, "Engine", fake_engine.FakeEngine)  # noqa: B010
    sys.argv = [request["module"], *request["argv"]]
    code = 0
    try:
        if request["code"]:
            exec(request["code"], {"__name__": "__main__"})
        else:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking down all that has been imported would take seconds


def _see_to_its_end(request: dict[str, Any]) -> NoReturn:
    """Forks the command, and waits for it: several run side by side."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _child(request)
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ends = pathlib.Path(request["ends"])
    ends.with_name("part").write_text(str(code))
    ends.with_name("part").rename(ends)
    os._exit(0)


def main() -> None:
    import fake_engine  # noqa: F401
    import ml_collections.config_flags  # type: ignore[import-untyped]  # noqa: F401
    from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast  # noqa: F401

    from star_jax.eval import runner  # noqa: F401

    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")  # no backend is up yet
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    for line in sys.stdin:
        if os.fork() == 0:
            _see_to_its_end(json.loads(line))


if __name__ == "__main__":
    main()
