"""The wheel: one top-level package, with models and eval inside it, that imports on its own."""

import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("star_jax", "models", "eval", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built from a copy, since building leaves its traces beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(path, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_adds_only_star_jax(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"star_jax"}
    # Every module, those behind the links star_jax/models and star_jax/eval included.
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("star_jax", "star_jax/models", "star_jax/eval")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {"star_jax/models/llama.py", "star_jax/eval/__main__.py"} <= sources
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"star_jax/py.typed", "star_jax/eval/ruler/constitution.txt"} <= set(names)
    data = {path.name for path in (ROOT / "eval/published").glob("*.csv")}
    assert len(data) == 4
    assert {f"star_jax/eval/published/{name}" for name in data} <= set(names)
    assert any(re.fullmatch(r".*\.dist-info/licenses/LICENSE", name) for name in names)


@pytest.mark.long
def test_an_unpacked_wheel_imports_by_itself(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Nothing of the checkout is on the path: what imports `models` or `eval` would fail here."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    modules = [
        ".".join(path.relative_to(tmp_path).with_suffix("").parts).removesuffix(".__init__")
        for path in (tmp_path / "star_jax").rglob("*.py")
        if path.name != "__main__.py"
    ]
    script = f"""
import importlib, pathlib, sys
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path({str(ROOT)!r})]
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(f)]
for name in {sorted(modules)!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
assert "models" not in sys.modules and "eval" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_links_are_relative() -> None:
    for name in ("models", "eval"):
        assert (ROOT / "star_jax" / name).readlink() == pathlib.Path("..") / name
