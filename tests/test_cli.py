"""What the commands say of themselves, and how what they say reaches a terminal."""

import os
import pathlib
import signal
import subprocess
import sys
import tomllib

import commands
import pytest
from command_folder import evaluate, files, fill, infer
from further import further

import star_jax
from star_jax.eval import help, settings
from star_jax.printable import printable

COMMANDS = [
    "star_jax.eval",
    "star_jax.report",
    "star_jax.infer",
    "star_jax.chat",
    "star_jax.prepare",
    "star_jax.convert",
    "star_jax.models",
    "star_jax.serve",
]


def spawn(*argv: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": commands.AS_USERS},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_help_and_version(tmp_path: pathlib.Path, module: str) -> None:
    others = ("-h", "-help", "--helpfull", "--help=true") if module == COMMANDS[0] else ()
    for argument in ("--help", *others):
        result = commands.run(tmp_path, module, "--nonsense=1", argument)
        assert (result.code, result.stderr) == (0, "")
        flags = {
            "eval": "--config",
            "report": "--tolerance",
            "infer": "--model_path",
            "chat": "--context",
            "prepare": "--output",
            "convert": "--out",
            "models": "--model",
            "serve": "--port",
        }
        assert flags[module.removeprefix("star_jax.")] in result.stdout
    result = commands.run(tmp_path, module, "--version")
    assert (result.code, result.stdout) == (0, f"star_jax {star_jax.__version__}\n")
    assert "Unknown" in commands.run(tmp_path, module, "--hilfe").error


def test_the_version_is_that_of_pyproject() -> None:
    project = tomllib.loads((commands.REPOSITORY / "pyproject.toml").read_text())["project"]
    assert star_jax.__version__ == project["version"]


def test_the_commands_are_listed(tmp_path: pathlib.Path) -> None:
    result = spawn("-m", "star_jax", cwd=tmp_path)
    assert result.returncode == 0
    listed = [line.split()[:3] for line in result.stdout.splitlines() if "python -m" in line]
    listed_commands = [*COMMANDS, "star_jax.lm_eval"]  # whose help is another's
    assert listed == [["python", "-m", module] for module in listed_commands]
    assert "Answers the questions of a JSON-lines file" in result.stdout
    for argument in ("-h", "--help"):
        assert commands.run(tmp_path, "star_jax", argument).stdout == result.stdout
    assert star_jax.__version__ in commands.run(tmp_path, "star_jax", "--version").stdout
    assert "python -m star_jax.eval" in commands.run(tmp_path, "star_jax", "eval").error
    assert "'nonsense'" in commands.run(tmp_path, "star_jax", "nonsense").error


def test_every_setting_is_documented_with_its_type_and_default(tmp_path: pathlib.Path) -> None:
    text = commands.run(tmp_path, "star_jax.eval", "--help").stdout
    found = list(help.settings())
    assert len(found) == len({one.name for one in found}) == 49
    for one in found:
        assert len(one.doc) > 10
        default = "" if one.default is None else f", default {one.default!r}"
        assert f"  {one.name} ({one.type}{default})\n" in text
        assert one.doc[:40] in text
    assert help.Setting("mesh.data", "int", 1, "contexts side by side.") in found
    keys = next(one for one in found if one.name == "data.keys")
    assert keys.doc.endswith("Tasks whose keys are no words ignore it.")  # its second line
    assert "`" not in settings.DataConfig.__doc__  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 text", "plain é 漢 text"),
        ("a\x1b[31mred\x1b]0;title\x07b", "a\\x1b[31mred\\x1b]0;title\\x07b"),
        ("two\nlines\tof it", "two lines of it"),
        ("\x9b31m \x7f\b", "\\x9b31m \\x7f\\x08"),
        ("right\u202eleft", "right\\u202eleft"),
        ("half \udcff", "half \\udcff"),
        ("tag \U000e0041", "tag \\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


EVIL = "e\x1b[2Jvil\x9b1m\u202e"


def test_names_from_files_reach_the_terminal_spelled_out(tmp_path: pathlib.Path) -> None:
    """An error, a warning, the plan, the progress and the table."""
    here = fill(tmp_path)
    path = here / f"{EVIL}|.jsonl"
    path.write_bytes((here / "in.jsonl").read_bytes())
    jsonl = ["--config.data.suite=jsonl", f"--config.data.path={path.name}"]
    runs = [
        infer(here, model_path=EVIL),
        evaluate(here, "--config.attention.kind=" + EVIL),
        evaluate(here, *jsonl, "--config.attention.kind=dense", "--config.mesh.context=1"),
        evaluate(here, *jsonl, "--config.attention.kind=dense", "--config.mesh.context=1"),
    ]
    assert [run.code for run in runs] == [1, 1, 0, 0]
    said = [run.stdout + run.stderr for run in runs]
    said.append((here / "out" / "summary.md").read_text())
    for text in said:
        assert all(c.isprintable() or c == "\n" for c in text)
    assert runs[0].error.count("\\x1b[2J") == 1
    assert all("e\\x1b[2Jvil" in text for text in (runs[2].stdout, runs[2].stderr))
    lines = [line for line in runs[2].stdout.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_warning_is_one_line(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, warnings; from star_jax.runs import cli\n"
        "def main(argv): warnings.warn('star_jax: one\\x1b[1m\\ntwo')\n"
        "cli.run(main)"
    )
    result = spawn("-c", code, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == "warning: one\\x1b[1m two"
    assert "warnings.warn" not in result.stderr


@pytest.mark.long
def test_that_there_is_no_pytorch_is_not_said(tmp_path: pathlib.Path) -> None:
    here = fill(tmp_path)
    code = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "sys.argv = ['infer', '--model_path=checkpoint', '--attn_type=dense', '--template=chat',"
        " '--tokens_to_generate=1', '--input_path=in.jsonl', '--output_path=out.jsonl']\n"
        "runpy.run_module('star_jax.infer', run_name='__main__', alter_sys=True)"
    )
    before = files(here)
    result = spawn("-B", "-c", code, cwd=here)
    assert result.returncode == 1
    assert "no chat template" in result.stderr  # so transformers has been imported
    assert "PyTorch" not in result.stderr
    assert files(here) == before


def shell(line: str, *argv: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, sys.executable, *argv],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": commands.AS_USERS, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "argument"), [("star_jax", "--help"), *further(("star_jax.convert", "--version"))]
)
def test_help_that_cannot_be_written_is_one_line(
    tmp_path: pathlib.Path, module: str, argument: str
) -> None:
    done = shell(f'"$0" -m {module} {argument} > /dev/full', cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, "error: cannot write to the standard output: No space left on device"
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.long
def test_standard_output_may_be_closed(tmp_path: pathlib.Path) -> None:
    code = "from star_jax.runs import cli; cli.run(lambda argv: None)"
    done = shell('"$0" -c "$1" >&-', code, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


INTERRUPTED = """
import os, runpy, signal, sys
from star_jax import engine
number = int(sys.argv.pop())
def stop(*args, **kwargs):
    os.kill(os.getpid(), number)
    raise ValueError("it goes on")
engine.Engine.from_pretrained = stop
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
RUNS = {
    "star_jax.infer": (
        "--model_path=checkpoint --attn_type=dense --tokens_to_generate=1 --input_path=in.jsonl "
        "--output_path=new/out.jsonl"
    ),
    "star_jax.eval": "--config=config.py --config.output_dir=new/out",
}


@pytest.mark.parametrize(("module", "number"), [*zip(RUNS, SIGNALS, strict=True)])
def test_a_run_that_is_told_to_end_leaves_nothing(
    tmp_path: pathlib.Path, module: str, number: signal.Signals
) -> None:
    here = fill(tmp_path)
    before = files(here)
    argv = [module, *RUNS[module].split(), str(int(number))]
    ended = commands.run(here, "-c", *argv, code=INTERRUPTED)
    assert ended.code == 1
    assert ended.stderr.splitlines()[-1] == (
        f"interrupted by {number.name}; the same command goes on from here"
    )
    assert "Traceback" not in ended.stderr
    assert files(here) == before
    if number == signal.SIGHUP:
        line = f'"$0" -c "$1" {module} {RUNS[module]} {int(number)}'
        done = shell(f"trap '' HUP; {line}", INTERRUPTED, cwd=here)
        assert done.stderr.splitlines()[-1] == "error: it goes on"


@pytest.mark.long
def test_an_output_that_nobody_reads_is_no_traceback(tmp_path: pathlib.Path) -> None:
    code = "from star_jax.runs import cli\ncli.run(lambda argv: print('x' * 10**6))"
    for to in ("> /dev/full", "| true"):
        run = shell(f'"$0" -c "$1" {to}', code, cwd=tmp_path)
        assert run.returncode == 1, run.stderr
        assert run.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in run.stderr
        assert "Exception ignored" not in run.stderr


@pytest.mark.parametrize("kind", ["ValueError", "TypeError", "KeyError"])
def test_an_error_of_a_config_file_is_its_last_line(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "broken.py").write_text(f"def get_config(x=''):\n    raise {kind}('no ' + x)\n")
    result = commands.run(tmp_path, "star_jax.eval", "--config=broken.py:such")
    assert result.code == 1
    assert f"{kind}: " in result.error and "no such" in result.error
    assert "Traceback" not in result.error
