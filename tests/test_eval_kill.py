"""A run that is killed at any moment and started again leaves what one never killed leaves."""

import pathlib
import random
import time

import commands
import fake_engine
import pytest

CONFIG = """
from star_jax.eval import config

def get_config():
    return config.EvalConfig(
        model=config.ModelConfig(path="checkpoint"),
        attention=config.AttentionConfig(kind="dense,star", block_size="L/4", anchor_size="b,0"),
        mesh=config.MeshConfig(data=2, cpu_devices=2),
        data=config.DataConfig(
            tasks="niah_single_1,niah_multikey_2", lengths="600,900", num_samples=7
        ),
        generation=config.GenerationConfig(max_new_tokens=16),
        output_dir="never",
    )
"""
SLOW = {"FAKE_ENGINE_SECONDS": "0.03"}  # 48 batches


def evaluate(
    folder: pathlib.Path,
    output: str,
    kill_after: float | None = None,
    *,
    fake: bool,
    num_samples: int = 7,
) -> commands.Result:
    return commands.run(
        folder,
        "star_jax.eval",
        "--config=config.py",
        f"--config.output_dir={output}",
        f"--config.data.num_samples={num_samples}",
        fake=fake,
        env=SLOW,
        kill_after=kill_after,
    )


def kill_and_compare(folder: pathlib.Path, *, kills: int, seed: int, fake: bool) -> None:
    """`kills` times: kill a run at a random moment of what is left, and let it go on."""
    if fake:
        fake_engine.save_checkpoint(folder / "checkpoint")
    (folder / "config.py").write_text(CONFIG)
    assert evaluate(folder, "never", fake=fake).code == 0
    expected = commands.results(folder / "never")
    assert len(expected) == 2 * 2 * 3 + 3  # cells and rows; manifest and summaries
    start = time.monotonic()
    assert evaluate(folder, "again", fake=fake).code == 0
    seconds = time.monotonic() - start
    assert commands.results(folder / "again") == expected

    rng = random.Random(seed)
    killed, round_ = 0, 0
    while killed < kills:
        output = f"killed{round_}"
        while killed < kills:
            result = evaluate(folder, output, kill_after=rng.uniform(0, seconds), fake=fake)
            if result.code == 0:
                break  # it was done before its moment came
            assert result.code == -9
            killed += 1
        if result.code != 0:
            assert evaluate(folder, output, fake=fake).code == 0
        assert commands.results(folder / output) == expected
        round_ += 1


def test_killed_three_times(tmp_path: pathlib.Path) -> None:
    kill_and_compare(tmp_path, kills=3, seed=0, fake=True)


@pytest.mark.long
def test_samples_are_added_to_a_run_that_is_killed_now_and_then(tmp_path: pathlib.Path) -> None:
    """Three, five (each a short last batch), then seven: no record that is whole is lost."""
    fake_engine.save_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "config.py").write_text(CONFIG)
    assert evaluate(tmp_path, "at once", fake=True).code == 0
    expected = commands.results(tmp_path / "at once")
    rng = random.Random(7)
    kills, before = 0, dict[pathlib.Path, list[bytes]]()
    for num_samples in (3, 5, 7):
        for kill_after in (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), None):
            result = evaluate(tmp_path, "grown", kill_after, fake=True, num_samples=num_samples)
            assert result.code in (0, -9)
            kills += result.code == -9
            found = {
                path: path.read_bytes().splitlines(keepends=True)
                for path in (tmp_path / "grown").rglob("*.jsonl")
            }
            for path, lines in before.items():
                assert found[path][: len(lines)] == lines
            before = {
                path: [line for line in lines if line.endswith(b"\n")]
                for path, lines in found.items()
            }
    assert kills
    assert commands.results(tmp_path / "grown") == expected
