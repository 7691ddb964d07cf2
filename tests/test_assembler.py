"""Which assembler is asked for its version: stand-ins of packages and programs, and no GPU."""

import importlib
import pathlib
import sys

import pytest

from star_jax.attention.mosaic import assembler

OUTPUT = """ptxas: NVIDIA (R) Ptx optimizing assembler
Copyright (c) 2005-2025 NVIDIA Corporation
Built on Tue_May_27_02:21:03_PDT_2025
Cuda compilation tools, release 12.9, V{version}
Build cuda_12.9.r12.9/compiler.36037853_0
"""


class Machine:
    """Folders on PATH and on Python's path, in which nothing is installed yet."""

    def __init__(self, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self.bin, self.site = root / "bin", root / "site"
        self.monkeypatch = monkeypatch
        for folder in (self.bin, self.site):
            folder.mkdir()
        monkeypatch.setattr("sys.path", [str(self.site)])
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setattr(assembler, "ROOTS", (str(root / "cuda"),))
        # What other tests have imported would be found without looking.
        for name in ("nvidia", "jax_cuda12_plugin", "jax_cuda13_plugin"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        self.jax((0, 12, 0))

    def jax(self, version: tuple[int, ...]) -> None:
        self.monkeypatch.setattr(assembler.jax.version, "__version_info__", version)

    def package(self, name: str, version: str) -> None:
        """Its metadata, and for a plugin its module."""
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if name.startswith("jax"):
            (self.site / name.replace("-", "_")).mkdir()
        importlib.invalidate_caches()

    def ptxas(self, version: str, folder: pathlib.Path | None = None, code: str = "") -> str:
        folder = folder or self.bin
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "ptxas"
        path.write_text(f"#!/bin/sh\n{code}\necho '{OUTPUT.format(version=version)}'\n")
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_nothing_is_installed(machine):
    assert assembler.find() is None
    assert assembler.refusal() == ""


@pytest.mark.parametrize(
    ("version", "bad"),
    [
        ("11.8.89", False),
        ("12.6.85", False),
        ("12.8.61", True),
        ("12.8.93", True),
        ("12.9.41", True),
        ("12.9.86", False),
        ("13.0.48", False),
    ],
)
@pytest.mark.parametrize("of", ["ptxas", "libnvJitLink"])
def test_these_versions_miscompile(machine, version, bad, of):
    """They are CUDA 12.8.0's, 12.8.1's and 12.9.0's."""
    if of == "ptxas":
        where = machine.ptxas(version)
    else:
        machine.package("jax_cuda12_plugin", "0.12.0")
        machine.package(where := "nvidia-nvjitlink-cu12", version)
        if version < "12":
            assert assembler.find() is None  # XLA does not use one of CUDA 11
            return
    assert assembler.find() == (of, tuple(map(int, version.split("."))), where)
    assert bool(reason := assembler.refusal()) == bad
    if bad:
        assert f"{of} {version} ({where})" in reason and "12.9.1 or newer" in reason
        assert "\n" not in reason


def test_nvjitlink_assembles_where_it_is_installed(machine):
    """Whatever ptxas there is; but not for older versions of JAX, which run ptxas."""
    machine.package("jax_cuda12_plugin", "0.12.0")
    machine.package("nvidia-nvjitlink-cu12", "12.9.86")
    machine.ptxas("12.8.61")
    assert assembler.refusal() == ""
    machine.jax((0, 11, 2))
    assert "ptxas 12.8.61" in assembler.refusal()


def test_a_bad_nvjitlink_is_not_excused_by_a_good_ptxas(machine):
    machine.package("jax_cuda12_plugin", "0.12.0")
    machine.package("nvidia-nvjitlink-cu12", "12.8.93")
    machine.ptxas("13.0.48")
    assert "libnvJitLink 12.8.93 (nvidia-nvjitlink-cu12)" in assembler.refusal()
    machine.jax((0, 11, 2))
    assert assembler.refusal() == ""


def test_the_package_is_that_of_the_plugin(machine):
    """The other CUDA's may be there for other libraries."""
    machine.package("jax_cuda13_plugin", "0.12.0")
    machine.package("nvidia-nvjitlink-cu12", "12.8.93")
    assert assembler.find() is None
    machine.package("nvidia-nvjitlink", "13.0.88")
    assert assembler.find() == ("libnvJitLink", (13, 0, 88), "nvidia-nvjitlink")
    machine.package("jax_cuda12_plugin", "0.12.0")  # JAX looks for this one first
    assert "libnvJitLink 12.8.93" in assembler.refusal()


def test_an_old_nvjitlink_is_passed_over(machine):
    """As XLA does before 12.5, where it leaks memory."""
    machine.package("jax_cuda12_plugin", "0.12.0")
    machine.package("nvidia-nvjitlink-cu12", "12.4.127")
    machine.ptxas("12.8.61")
    assert "ptxas 12.8.61" in assembler.refusal()


@pytest.mark.parametrize("wheel", ["cuda_nvcc", "cu13"])
def test_ptxas_is_looked_for_where_xla_does(machine, wheel, tmp_path):
    """NVIDIA's wheel, CUDA's folder, the PATH: the last one wins that is there."""
    inside = machine.ptxas("12.8.61", machine.site / "nvidia" / wheel / "bin")
    assert assembler.find() == ("ptxas", (12, 8, 61), inside)
    toolkit = machine.ptxas("12.9.86", tmp_path / "cuda" / "bin")
    assert assembler.find() == ("ptxas", (12, 9, 86), toolkit)
    on_path = machine.ptxas("13.0.48")
    assert assembler.find() == ("ptxas", (13, 0, 48), on_path)


@pytest.mark.parametrize("code", ["exit 1", "echo nonsense; exit 0", "kill -9 $$"])
def test_a_ptxas_that_says_no_version_is_passed_over(machine, code, tmp_path):
    machine.ptxas("12.8.61", code=code)
    assert assembler.find() is None
    good = machine.ptxas("12.9.86", tmp_path / "cuda" / "bin")
    assert assembler.find() == ("ptxas", (12, 9, 86), good)


def test_a_ptxas_that_cannot_be_run_is_passed_over(machine):
    pathlib.Path(machine.ptxas("12.8.61")).chmod(0o644)
    assert assembler.find() is None
    (machine.bin / "ptxas").unlink()
    (machine.bin / "ptxas").mkdir()
    assert assembler.find() is None
