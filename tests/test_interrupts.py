"""A signal ends a command at any moment: soon, in one line, and with nothing half done."""

import os
import pathlib
import signal
import subprocess
import sys

import commands
import pytest
from command_folder import files, fill
from further import further

from star_jax import interrupts

COMMANDS = {
    "star_jax.infer": (
        "--model_path=checkpoint --attn_type=dense --tokens_to_generate=1 --input_path=in.jsonl "
        "--output_path=new/out.jsonl"
    ),
    "star_jax.eval": "--config=config.py --config.output_dir=new/out",
    "star_jax.convert": "--input=checkpoint --output=out",
}
THEN = dict.fromkeys(COMMANDS, "the same command goes on from here") | {
    "star_jax.convert": "nothing is left behind, and the same command starts over"
}


def spawn(
    here: pathlib.Path, *argv: str, path: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    places = [*([str(path)] if path else []), commands.AS_USERS]
    return subprocess.run(
        [sys.executable, "-B", *argv],
        cwd=here,
        env=os.environ | {"PYTHONPATH": ":".join(places)},
        capture_output=True,
        text=True,
        check=False,
    )


# In the midst of each command's work.
CODE = """
import atexit, gc, os, runpy, shutil, signal, sys, time
from star_jax import engine
from star_jax.checkpoint import orbax_files
module, number = sys.argv[1], int(sys.argv[2])

def kill(*args):
    gc.callbacks.clear()
    os.kill(os.getpid(), number)

def work(*args, **kwargs):
    {lose}
    time.sleep(20)  # it is interrupted
    raise ValueError("it goes on")

def rmtree(path, rmtree=shutil.rmtree, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)  # another one
    os.kill(os.getpid(), signal.SIGINT)
    rmtree(path, **kwargs)

shutil.rmtree = rmtree
engine.Engine.from_pretrained = orbax_files.write = work
atexit.register(print, "said by a library as Python ends", file=sys.stderr)
sys.argv = [module, *sys.argv[3:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
LOST = {
    "in a callback": "gc.callbacks.append(kill); gc.collect()",
    "in an except": "\n    try: kill()\n    except: pass",
    "nowhere": "kill()",
}


@pytest.mark.parametrize("lose", LOST)
@pytest.mark.parametrize(
    "module", ["star_jax.eval", *further("star_jax.infer", "star_jax.convert")]
)
def test_a_signal_is_not_lost(tmp_path: pathlib.Path, module: str, lose: str) -> None:
    here = fill(tmp_path)
    before = files(here)
    number = {"nowhere": signal.SIGINT, "in an except": signal.SIGHUP}.get(lose, signal.SIGTERM)
    code = CODE.replace("{lose}", LOST[lose])
    argv = [module, str(int(number)), *COMMANDS[module].split()]
    if lose == "nowhere":  # a process that would really end as Python does
        spawned = spawn(here, "-c", code, *argv)
        done = commands.Result(spawned.returncode, spawned.stdout, spawned.stderr)
    else:
        done = commands.run(here, "-c", *argv, code=code)
    assert done.code == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"interrupted by {number.name}; {THEN[module]}"
    for word in ("Traceback", "Exception ignored", "said by a library"):
        assert word not in done.stderr
    assert files(here) == before


@pytest.mark.parametrize(("module", "number"), [*zip(COMMANDS, interrupts.SIGNALS, strict=True)])
def test_a_signal_while_libraries_are_imported(
    tmp_path: pathlib.Path, module: str, number: signal.Signals
) -> None:
    """A stand-in for JAX sends it; where it is ignored, it stays so."""
    (tmp_path / "jax").mkdir()
    kill = f"import os; os.kill(os.getpid(), {int(number)}); raise SystemExit('it goes on')"
    (tmp_path / "jax" / "__init__.py").write_text(kill)
    done = spawn(tmp_path, "-m", module, path=tmp_path)
    said = f"interrupted by {number.name}; nothing has been done yet\n"
    assert (done.returncode, done.stderr) == (1, said)
    ignored = f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_IGN); "
    ignored += f"os.execv(sys.executable, [sys.executable, '-B', '-m', {module!r}])"
    done = spawn(tmp_path, "-c", ignored, path=tmp_path)
    assert (done.returncode, done.stderr) == (1, "it goes on\n")


def test_importing_the_library_leaves_signals_alone(tmp_path: pathlib.Path) -> None:
    code = (
        "import signal; before = signal.getsignal(2), signal.getsignal(15); import star_jax\n"
        "assert before == (signal.getsignal(2), signal.getsignal(15))"
    )
    done = spawn(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_program_that_imports_the_library_keeps_its_signals(tmp_path: pathlib.Path) -> None:
    """Also one that is a package, which Python imports while it looks for the module to run."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import star_jax\n")
    (tmp_path / "mine" / "program.py").write_text(
        "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    done = spawn(tmp_path, "-m", "mine.program", path=tmp_path)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("arguments", "is_ours"),
    [
        ("python -m star_jax.eval --config=x", True),
        ("python -B -mstar_jax.infer", True),
        ("python -m star_jax", True),
        ("python -m mine.program --config=star_jax/x.py", False),
        ("python -m star_jaxes", False),
    ],
)
def test_whose_command_it_is(arguments: str, is_ours: bool) -> None:
    assert interrupts.is_ours(arguments.split()) is is_ours
