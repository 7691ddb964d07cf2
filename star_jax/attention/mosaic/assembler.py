"""Which assembler makes machine code of Mosaic's kernels, and whether it does so rightly.

It is not the CUDA runtime's: JAX 0.12 and newer use libnvJitLink where the package with it is
installed, and otherwise, as older versions always do, the first `ptxas` that is found.
"""

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
from typing import NamedTuple

import jax

Version = tuple[int, ...]

NVJITLINK_SINCE = (0, 12)  # JAX's version
NVJITLINK = {  # the package of each plugin, in the order in which JAX looks for them
    "jax_cuda12_plugin": "nvidia-nvjitlink-cu12",
    "jax_cuda13_plugin": "nvidia-nvjitlink",
}
USABLE = {"libnvJitLink": (12, 5), "ptxas": (11, 8)}  # XLA takes no older ones
WHEELS = ("cuda_nvcc", "cu13")  # folders in that of the package `nvidia`
ROOTS = ("/usr/local/cuda", "/opt/cuda")

# CUDA from 12.8.0 on and before 12.9.1, whose assembler is 12.9.86: JAX's own Hopper kernel,
# which has a causal mask as well, refuses to run there.
MISCOMPILING = ((12, 8), (12, 9, 86))


class Assembler(NamedTuple):
    """`where`: a package, or a file."""

    name: str
    version: Version
    where: str


def refusal() -> str:
    """Why the assembler cannot be trusted; empty if it can, or if there is none to run."""
    found = find()
    if found is None or not MISCOMPILING[0] <= found.version < MISCOMPILING[1]:
        return ""
    version = ".".join(map(str, found.version))
    return (
        f"mosaic needs another assembler than {found.name} {version} ({found.where}): of CUDA "
        "12.8.0 to 12.9.0 it miscompiles causal masks; install 12.9.1 or newer"
    )


def find() -> Assembler | None:
    """The assembler that Mosaic will use here; None if there is none."""
    if jax.version.__version_info__[:2] >= NVJITLINK_SINCE:
        for plugin, package in NVJITLINK.items():
            if importlib.util.find_spec(plugin):
                version = _installed(package)
                if version >= USABLE["libnvJitLink"]:
                    return Assembler("libnvJitLink", version, package)
                break  # JAX takes the first plugin, and what comes with it
    for path in _candidates():
        version = _ptxas_version(str(path)) if path.is_file() else ()
        if version >= USABLE["ptxas"]:
            return Assembler("ptxas", version, str(path))
    return None


def _installed(package: str) -> Version:
    try:
        return _numbers(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _candidates() -> list[pathlib.Path]:
    """Where XLA looks for a ptxas, in its order: the PATH, CUDA's folders, NVIDIA's wheels."""
    folders = [pathlib.Path(folder) for folder in os.get_exec_path()]
    folders += [pathlib.Path(root, "bin") for root in ROOTS]
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations if spec else None) or []:
        folders += [pathlib.Path(place, wheel, "bin") for wheel in WHEELS]
    return [folder / "ptxas" for folder in folders]


@functools.cache
def _ptxas_version(path: str) -> Version:
    """What it says, `V12.9.86` somewhere in a few lines; () if it says nothing of the kind."""
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\bV(\d+\.\d+\.\d+)\b", said)
    return _numbers(found[1]) if found else ()


def _numbers(version: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", version))
