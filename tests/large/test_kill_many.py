"""The twenty kills of `tests/test_eval_kill.py`, of which `make test` does three."""

import pathlib

import test_eval_kill


def test_killed_twenty_times(tmp_path: pathlib.Path) -> None:
    test_eval_kill.kill_and_compare(tmp_path, kills=20, seed=1)
