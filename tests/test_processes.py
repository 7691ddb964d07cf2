"""Several processes, joined over gloo: what one writes is what one process alone would."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import chex
import command_folder
import commands
import jax
import library_run
import pytest
import test_generate
import tiny
from command_folder import write_lines
from further import further

import star_jax
from star_jax.runtime import processes

QUESTIONS = [
    {
        "index": i,
        "input_context": f"the grass is green, and the sky is number {i}. " * 4,
        "input_query": "is it?",
        "outputs": ["e"],
    }
    for i in range(4)
]
TIMEOUT = 10  # seconds, after which a process that is gone ends the others


def prepared(folder: pathlib.Path) -> pathlib.Path:
    command_folder.fill(folder)
    write_lines(folder / "in.jsonl", *QUESTIONS)
    return folder


@pytest.fixture
def here(tmp_path: pathlib.Path) -> pathlib.Path:
    return prepared(tmp_path)


def flags(index: int, count: int, port: int, prefix: str) -> list[str]:
    return [
        f"--{prefix}coordinator=localhost:{port}",
        f"--{prefix}num_processes={count}",
        f"--{prefix}process_id={index}",
        f"--{prefix}timeout={TIMEOUT}",
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def evaluation(mesh: str, devices: int, output: str) -> list[str]:
    data, context, tensor = mesh.split("x")
    settings = {
        "attention.kind": "star,ring" if mesh == "1x4x1" else "star",
        "attention.block_size": 16,
        "mesh.data": data,
        "mesh.context": context,
        "mesh.tensor": tensor,
        "mesh.cpu_devices": devices,
        "data.suite": "jsonl",
        "data.path": "in.jsonl",
        "data.num_samples": -1,
        "output_dir": output,
    }
    return ["--config=config.py", *(f"--config.{k}={v}" for k, v in settings.items())]


def evaluate(
    here: pathlib.Path, mesh: str, count: int, output: str, *, second: Sequence[str] = ()
) -> list[commands.Command]:
    """The processes of an evaluation, under way. `second`: more settings of the second."""
    port, argv = free_port(), evaluation(mesh, 4 // count, output)
    return [
        commands.Command(
            here,
            "star_jax.eval",
            *argv,
            *flags(i, count, port, "config.mesh."),
            *(second if i == 1 else ()),
            number=i,
        )
        for i in range(count)
    ]


def results(running: list[commands.Command]) -> list[commands.Result]:
    return [process.result() for process in running]


@pytest.mark.parametrize(
    ("mesh", "count"), [pytest.param("2x2x1", 2, marks=pytest.mark.long), ("1x2x2", 4)]
)
def test_the_records_are_those_of_one_process(here: pathlib.Path, mesh: str, count: int) -> None:
    one = commands.run(here, "star_jax.eval", *evaluation(mesh, 4, "one"))
    assert one.code == 0, one.stderr
    first, *others = results(evaluate(here, mesh, count, "several"))
    assert first.code == 0, first.stderr
    assert commands.results(here / "several") == commands.results(here / "one")
    assert first.stdout.splitlines()[-1:] == one.stdout.splitlines()[-1:]
    assert f"of {count} processes" in first.stderr
    for other in others:  # they say nothing of their own
        assert other.code == 0, other.stderr
        assert "|" not in other.stdout and "mesh:" not in other.stderr, other


def test_one_that_is_killed_ends_the_others_and_nothing_is_lost(here: pathlib.Path) -> None:
    write_lines(here / "in.jsonl", *(q | {"index": i} for i, q in enumerate(QUESTIONS * 5)))
    one = commands.run(here, "star_jax.eval", *evaluation("1x4x1", 4, "one"))
    assert one.code == 0, one.stderr
    for victim in (1, 0):
        running = evaluate(here, "1x4x1", 2, "killed")
        wait_for(here / "killed", lines=3 if victim else 9)
        running[victim].kill()
        found = results(running)
        assert found[victim].code == -9
        other = found[1 - victim]
        assert other.code not in (0, -9)
        assert "another process may have ended" in other.stderr or "died" in other.stderr
    assert all(r.code == 0 for r in results(evaluate(here, "1x4x1", 2, "killed")))
    assert commands.results(here / "killed") == commands.results(here / "one")


def wait_for(folder: pathlib.Path, *, lines: int) -> None:
    """Until so many records are there."""
    for _ in range(1200):
        files = list(folder.rglob("*.jsonl"))
        if sum(len(file.read_bytes().splitlines()) for file in files) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"{lines} records never came")


@pytest.mark.parametrize("index", [1, *further(0)])
def test_one_that_never_comes(here: pathlib.Path, index: int) -> None:
    argv = [*evaluation("1x4x1", 2, "out"), *flags(index, 2, free_port(), "config.mesh.")]
    argv = [a.replace(f"timeout={TIMEOUT}", "timeout=3") for a in argv]
    result = commands.run(here, "star_jax.eval", *argv)
    assert result.error.startswith("error: not all 2 processes came to localhost:")
    assert not (here / "out").exists()


def test_a_signal_ends_one_that_waits_for_the_others(here: pathlib.Path) -> None:
    argv = [*evaluation("1x4x1", 2, "out"), *flags(0, 2, free_port(), "config.mesh.")]
    argv = [a.replace(f"timeout={TIMEOUT}", "timeout=60") for a in argv]
    waiting = commands.Command(here, "star_jax.eval", *argv)
    time.sleep(3)
    os.kill(waiting.pid, signal.SIGINT)
    start = time.monotonic()
    result = waiting.result()
    assert time.monotonic() - start < 20
    assert result.stderr.splitlines()[-1].startswith("interrupted by SIGINT; ")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("data.path=other.jsonl", "data.path"),
        ("attention.kind=ring,star", "attention is [["),
        ("data.batch_size=2", "data.batch_size is 2, and 1 in process 0"),
        ("data.num_samples=1", "data.num_samples is 1, and 4 in process 0"),
    ],
)
def test_one_that_is_given_something_else_says_so(
    here: pathlib.Path, other: str, said: str
) -> None:
    write_lines(here / "other.jsonl", *QUESTIONS[1:])
    first, second = results(evaluate(here, "1x4x1", 2, "out", second=[f"--config.{other}"]))
    assert "process 1: error: process 1 is not given what the others are: " in second.stderr
    assert said in second.stderr
    assert first.code != 0
    assert not list(here.rglob("out/*"))


def test_a_signal_to_one_ends_all(here: pathlib.Path) -> None:
    write_lines(here / "in.jsonl", *(q | {"index": i} for i, q in enumerate(QUESTIONS * 50)))
    running = evaluate(here, "1x4x1", 2, "out")
    wait_for(here / "out", lines=3)
    start = time.monotonic()
    os.kill(running[1].pid, signal.SIGTERM)
    first, second = results(running)
    assert time.monotonic() - start < TIMEOUT + 10
    assert second.stderr.splitlines()[-1] == (
        "interrupted by SIGTERM; the same command goes on from here"
    )
    assert first.code != 0


@pytest.mark.long
def test_processes_of_their_own_end_well(here: pathlib.Path) -> None:
    """Which ends as Python ends: JAX waits then for all. Places of output may differ."""
    port, argv = free_port(), evaluation("2x2x1", 2, "out")
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "star_jax.eval", *argv, *flags(i, 2, port, "config.mesh.")),
                f"--config.output_dir=out{i}",
            ],
            cwd=here,
            env=os.environ | {"PYTHONPATH": commands.AS_USERS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert (here / "out0" / "summary.md").exists() and not (here / "out1").exists()


@pytest.mark.long
def test_processes_may_have_different_numbers_of_devices(here: pathlib.Path) -> None:
    second = ["--config.mesh.cpu_devices=1"]
    found = results(evaluate(here, "1x3x1", 2, "out", second=second))
    assert [result.code for result in found] == [0, 0], found[0].stderr
    assert commands.run(here, "star_jax.eval", *evaluation("1x3x1", 3, "one")).code == 0
    assert commands.results(here / "out") == commands.results(here / "one")


def test_what_only_the_first_can_see_ends_all(here: pathlib.Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "manifest.json").write_text("{}")
    first, second = results(evaluate(here, "1x4x1", 2, "out"))
    assert "manifest.json: not a manifest" in first.stderr
    assert second.code != 0 and "error" not in second.stderr


@pytest.mark.long
def test_infer_draws_alike_on_all(here: pathlib.Path) -> None:
    """Without a seed, the first process draws one for all of them."""
    port = free_port()
    given = command_folder.INFER | {"context": 4, "cpu_devices": 2, "temperature": 1.0}
    argv = [f"--{name}={value}" for name, value in given.items()]
    running = [
        commands.Command(here, "star_jax.infer", *argv, *flags(i, 2, port, ""), number=i)
        for i in range(2)
    ]
    first, second = results(running)
    assert first.code == 0, first.stderr
    assert second.code == 0, second.stderr
    several = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    manifest = json.loads((here / "out.jsonl.manifest.json").read_text())
    given |= {"cpu_devices": 4, "output_path": "one.jsonl", "seed": manifest["settings"]["seed"]}
    one = commands.run(here, "star_jax.infer", *(f"--{k}={v}" for k, v in given.items()))
    assert one.code == 0, one.stderr
    alone = [json.loads(line) for line in (here / "one.jsonl").read_text().splitlines()]
    assert [command_folder.without_times(r) for r in several] == [
        command_folder.without_times(r) for r in alone
    ]


def test_the_library_gives_each_process_what_one_would_get(tmp_path: pathlib.Path) -> None:
    """On a mesh whose axis `data` lies across processes: no process has all of a result."""
    one = star_jax.make_mesh()
    alone = star_jax.Engine(tiny.model(), mesh=one, attention=library_run.MENDED)
    alone.prefill(tiny.ids(90)).save(tmp_path / "by_one")
    port = free_port()
    running = [
        commands.Command(
            tmp_path,
            "library_run",
            *(f"localhost:{port}", "2", str(i), "2", "2x2x1", "found"),
            number=i,
        )
        for i in range(2)
    ]
    for result in results(running):
        assert result.code == 0, result.stderr
    first, second = (json.loads((tmp_path / f"found.{i}").read_text()) for i in range(2))
    assert first == second
    by_all = alone.generate(
        alone.load_context(tmp_path / "by_all"), library_run.QUERY, max_new_tokens=library_run.NEW
    )
    mesh = star_jax.make_mesh(data=2, context=2)
    expected: Any = library_run.found(mesh, str(tmp_path))
    assert isinstance(by_all, star_jax.Answer) and by_all.tokens == expected["saved"][0]
    assert first["drawn"] != expected["drawn"]  # other seeds
    for name in ("logits", "likelihood"):
        for a, b in zip(first[name], expected[name], strict=True):
            chex.assert_trees_all_close(a, b, rtol=0, atol=2e-4)
    exact = first.keys() - {"logits", "likelihood", "drawn"}
    assert {name: first[name] for name in exact} == {name: expected[name] for name in exact}


def test_processes_ask_each_other_nothing_to_put_an_array(monkeypatch: Any) -> None:
    """`jax.device_put` would: whether all of them put the same, at every call."""
    e = test_generate.engine()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("device_put")

    monkeypatch.setattr(jax, "device_put", refuse)
    context = e.prefill(tiny.ids(300))  # several waves
    assert e.generate(context, [1, 2], max_new_tokens=40, ignore_eos=True).tokens
    chex.assert_shape(e.score(context.prefix(20), [1, 2]), (2, 128))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"coordinator": "somewhere"}, "coordinator='somewhere' must be HOST:PORT"),
        ({"coordinator": "a:1", "process_id": 2}, "process_id=2 must be at most 1"),
        ({"coordinator": "a:1", "process_id": -5}, "process_id=-5 must be at least 0"),
        ({"coordinator": "a:1", "num_processes": -2}, "num_processes=-2 must be at least 1"),
        ({"coordinator": "a:1", "timeout": 0}, "timeout=0 must be at least 1"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        processes.start(**({"num_processes": 2, "process_id": 0} | given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config.mesh.process_id=1"], "mesh.process_id=1 needs mesh.coordinator"),
        (["--config.mesh.coordinator=x"], "mesh.coordinator='x' must be HOST:PORT"),
        (["--config.mesh.coordinator=auto"], "mesh.coordinator='auto': no Slurm, Open MPI 4 or"),
    ],
)
def test_eval_names_its_settings(here: pathlib.Path, given: list[str], said: str) -> None:
    assert said in commands.run(here, "star_jax.eval", "--config=config.py", *given).error
