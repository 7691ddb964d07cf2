"""A run on two processes, of which one is killed at random moments, five times.

Two minutes: after each kill the other may wait until its time is up in which it hears nothing.
"""

import pathlib
import random
import time

import commands
import test_processes
from command_folder import write_lines

KILLS = 5
QUESTIONS = test_processes.QUESTIONS


def test_five_kills_lose_nothing_and_double_nothing(tmp_path: pathlib.Path) -> None:
    here = test_processes.prepared(tmp_path)
    questions = [q | {"index": 4 * i + n} for i in range(10) for n, q in enumerate(QUESTIONS)]
    write_lines(here / "in.jsonl", *questions)
    start = time.monotonic()
    one = commands.run(here, "star_jax.eval", *test_processes.evaluation("1x4x1", 4, "one"))
    assert one.code == 0, one.stderr
    seconds = 2 * (time.monotonic() - start)  # two processes compile everything twice
    rng, killed, round_ = random.Random(0), 0, 0
    while killed < KILLS:
        running = test_processes.evaluate(here, "1x4x1", 2, f"killed{round_}")
        victim = rng.randrange(2)
        running[victim].kill(after=rng.uniform(0, seconds))
        found = test_processes.results(running)
        if found[victim].code == 0:
            assert commands.results(here / f"killed{round_}") == commands.results(here / "one")
            round_ += 1
            continue  # it was done before its moment came
        killed += 1
        assert found[victim].code == -9
        assert found[1 - victim].code != 0
    last = test_processes.results(test_processes.evaluate(here, "1x4x1", 2, f"killed{round_}"))
    assert [result.code for result in last] == [0, 0]
    assert commands.results(here / f"killed{round_}") == commands.results(here / "one")
