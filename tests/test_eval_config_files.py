"""The shipped config files, and how the command finds one and overrides it."""

import dataclasses
import os
import pathlib
import runpy

import pytest

from star_jax import Dense, Ring, Star
from star_jax.eval import config, rows
from star_jax.eval.suites import SUITES

REPOSITORY = pathlib.Path(__file__).parent.parent
# Where dense attention is as fast as any exact one.
ON_A_CPU = ("demo", "smollm2_needles", "smollm2_suites")
ANSWERING = ("chat", "serve")  # are asked by somebody, and have no questions of their own
CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))


@pytest.mark.parametrize("name", ANSWERING)
def test_the_config_files_of_commands_that_answer_are_sound(name: str) -> None:
    names = runpy.run_path(str(REPOSITORY / "configs" / f"{name}.py"))
    given = names["get_config"]()
    given.model.path = "somewhere"
    (row,) = rows.rows(config.resolve_answering(given).attention, 2**14)
    assert row.attention == Star(block_size=2**12, anchor_size=2**12)
    assert f"python -m star_jax.{name} --config=configs/{name}.py" in names["__doc__"]


def test_the_config_file_of_caches_is_sound() -> None:
    names = runpy.run_path(str(REPOSITORY / "configs" / "smollm2_cache.py"))
    given = config.resolve(names["get_config"]())
    (row,) = rows.rows(given.attention, 2048)
    assert row.attention == Star(block_size=512, anchor_size=512)
    assert given.cache.dtype == "model,int8,fp8"
    assert given.output_dir == "results/smollm2_cache"
    assert "python -m star_jax.eval --config=configs/smollm2_cache.py\n" in names["__doc__"]


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.stem not in (*ANSWERING, "smollm2_cache")],
    ids=lambda p: p.stem,
)
def test_the_config_files_are_sound(path: pathlib.Path) -> None:
    names = runpy.run_path(str(path))
    given = config.resolve(names["get_config"]())
    for length in SUITES[given.data.suite].lengths(given.data):
        assert length
        exact, star, *_ = rows.rows(given.attention, length)
        assert exact.attention == (Dense() if path.stem in ON_A_CPU else Ring())
        assert star.attention == Star(block_size=length // 4, anchor_size=length // 4)
    own = {"smollm2_suites": "results/smollm2_suites/ruler"}  # a directory for each suite
    assert given.output_dir == own.get(path.stem, f"results/{path.stem}")
    assert f"python -m star_jax.eval --config=configs/{path.name}" in names["__doc__"]


PAPER = {
    "table1": {16384: 2, 131072: 2, 1024: 2},
    "table2": {16384: 3, 131072: 3, 1024: 3},
    "table4": {65536: 11, 1024: 11},
    "table5": {1048576: 2, 1024: 2},
    "figure5": {131072: 17, 1024: 13},
}


@pytest.mark.parametrize("where", ["published", "smollm2"])
@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/paper").glob("*.py")), ids=str)
def test_the_papers_configs_are_sound(path: pathlib.Path, where: str) -> None:
    names = runpy.run_path(str(path))
    given = config.resolve(names["get_config"](where))
    assert given.output_dir == f"results/paper/{path.stem}/{where}"
    assert f"python -m star_jax.eval --config=configs/paper/{path.name}" in names["__doc__"]
    found = SUITES[given.data.suite].lengths(given.data)
    for length, count in PAPER[path.stem].items():
        if length in found:
            exact, *others = rows.rows(given.attention, length)
            assert exact.attention.is_exact and len(others) + 1 == count
    assert set(found) & PAPER[path.stem].keys()
    if where == "published":
        assert given.data.compat == "star" and given.data.num_samples == 500
    with pytest.raises(ValueError, match="where='here' is none of published, smollm2"):
        names["get_config"]("here")


@pytest.mark.parametrize("name", ["llama31_8b_ruler", "llama31_70b_ruler"])
def test_the_configs_for_gpus_have_the_recommended_setting(name: str) -> None:
    names = runpy.run_path(str(REPOSITORY / "configs" / f"{name}.py"))
    given = config.resolve(names["get_config"]("mended"))
    halo, both = rows.rows(given.attention, 32768)
    expected = Star(block_size=4096, anchor_size=1024, halo=3072, correction="both", stride=64)
    assert both.attention == expected
    assert halo.attention == dataclasses.replace(expected, correction=None)
    assert given.output_dir == f"results/{name}_mended"
    with pytest.raises(ValueError, match="star='mend' is none of published, mended"):
        names["get_config"]("mend")


def test_what_a_config_file_returns_is_checked() -> None:
    with pytest.raises(ValueError, match="must return star_jax's EvalConfig"):
        config.resolve({"model": 1})


def test_paths_are_looked_for_here_and_in_the_repository(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = config.existing("configs/demo.py")
    assert os.path.isabs(found)
    assert os.path.isfile(found)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").touch()
    assert config.existing("configs/demo.py") == "configs/demo.py"
    assert config.existing("no/such/thing") == "no/such/thing"
    assert config.existing("") == ""


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.atention.kind=dense", "--config.atention.kind; did you mean attention.kind"),
        ("--config.attention.blocksize=3", "did you mean attention.block_size"),
        ("-config.seed=3", "did you mean data.seed"),
        ("--config.data=3", "--config.data;"),
        ("--noconfig.generation.ignore", "did you mean generation.ignore_eos"),
        ("--config.zzz", "unknown override --config.zzz"),
    ],
)
def test_an_unknown_override_is_named(argument: str, says: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        config.check_arguments(["eval", argument])
    assert says in str(error.value)


def test_a_config_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path / "no.py", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--config={path}: there is no such file"):
            config.check_arguments(["eval", f"--config={path}:4096"])


def test_known_overrides_pass() -> None:
    config.check_arguments([
        "eval", f"--config={__file__}", "--config.data.seed=3", "--config.output_dir", "out",
        "--noconfig.generation.ignore_eos", "--verbosity=1", "--", "--config.nothing=1",
    ])  # fmt: skip
