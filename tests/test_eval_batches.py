"""Answers do not depend on how many questions are asked at once."""

import json
import pathlib
from typing import Any

import pytest

from star_jax.eval import config, runner
from star_jax.runs import records

ROOT = pathlib.Path(__file__).parent.parent


def run(
    output_dir: pathlib.Path, batch_size: int, num_samples: int, profile_dir: str = ""
) -> list[dict[str, Any]]:
    """The shipped model on one device: the records, without the seconds."""
    runner.run(
        config.resolve(
            config.EvalConfig(
                model=config.ModelConfig(path=str(ROOT / "checkpoints/needle"), dtype="float32"),
                attention=config.AttentionConfig(kind="star", block_size="64"),
                mesh=config.MeshConfig(),
                data=config.DataConfig(
                    tasks="niah_multikey_2",
                    lengths="256",
                    num_samples=num_samples,
                    batch_size=batch_size,
                    keys=str(ROOT / "checkpoints/needle/keys.txt"),
                ),
                generation=config.GenerationConfig(max_new_tokens=12, temperature=1.5, seed=5),
                output_dir=str(output_dir),
                profile_dir=profile_dir,
            )
        )
    )
    found = records.read(str(output_dir / "star_b64_a64/256/niah_multikey_2.jsonl"))
    return [{k: v for k, v in one.items() if not k.startswith("time_")} for one in found]


def test_the_batch_size_changes_nothing(tmp_path: pathlib.Path) -> None:
    """In one go, and when a run is resumed with another one; answers are drawn.

    The first run writes a profile, which changes nothing either.
    """
    one = run(tmp_path / "one", 1, 5, profile_dir=str(tmp_path / "profile"))
    assert len(one) == 5 and len({r["pred"] for r in one}) == 5
    (profile,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert profile.stat().st_size > 1000
    assert run(tmp_path / "four", 4, 5) == one
    assert run(tmp_path / "resumed", 4, 3) == one[:3]
    assert run(tmp_path / "resumed", 1, 5) == one
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert "batch" not in str(manifest["settings"])


def test_a_batch_of_no_size_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=-1"):
        run(tmp_path, -1, 1)
