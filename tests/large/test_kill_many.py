"""The twenty kills of `tests/test_eval_kill.py`, of which `make test` does three."""

import pathlib
import shutil

import test_eval_kill

ROOT = pathlib.Path(__file__).parents[2]


def test_killed_twenty_times(tmp_path: pathlib.Path) -> None:
    test_eval_kill.kill_and_compare(tmp_path, kills=20, seed=1, fake=True)


def test_killed_twenty_times_with_the_shipped_model(tmp_path: pathlib.Path) -> None:
    """The engine itself, compiling included."""
    shutil.copytree(ROOT / "checkpoints" / "needle", tmp_path / "checkpoint")
    test_eval_kill.kill_and_compare(tmp_path, kills=20, seed=2, fake=False)
