"""The PTX of kernels in programs that were compiled for absent GPUs, and what ptxas says of it.

compiled = aot.compile(f, *args, **ptx.dump_to(folder))
kernel = ptx.kernels(folder)["star_prefill"]
assert "mma.sync" in kernel.text
assert ptx.spills(kernel.report()) == 0
"""

import dataclasses
import functools
import importlib.util
import pathlib
import re
import subprocess


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a program."""

    text: str  # PTX
    target: str  # e.g. sm_80
    shared_bytes: int

    def report(self) -> str:
        """What ptxas prints of this kernel: registers, spills, stack."""
        # XLA has an assembler of its own. In JAX 0.12 it is newer than CUDA 12.9's, which refuses
        # PTX that says so, whatever is in it.
        text = re.sub(r"^\.version .*$", ".version 8.8", self.text, flags=re.MULTILINE)
        command = [_ptxas(), "-v", "--gpu-name", self.target, "-o", "/dev/null", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stderr}")
        return done.stderr


def dump_to(folder: pathlib.Path) -> dict[str, str]:
    """Options of XLA that make it write into `folder` the PTX of the program that it compiles."""
    # JAX 0.12 writes the PTX only if this emitter is asked for, and others write megabytes.
    return {"xla_dump_to": str(folder), "xla_dump_emitter_re": "ptx"}


def kernels(folder: pathlib.Path) -> dict[str, Kernel]:
    """The kernels of the one program that was dumped there, by name."""
    [thunks] = folder.glob("*.thunk_sequence.txt")
    launches = re.findall(r"(\w+) grid: .*shared_memory: (\d+)", thunks.read_text())
    shared = {name: int(size) for name, size in launches}
    found = {}
    for path in folder.glob("*.ptx"):
        text = path.read_text()
        [target] = re.findall(r"^\.target (\w+)", text, re.MULTILINE) or [""]
        for name in re.findall(r"\.entry (\w+)\(", text):
            found[name] = Kernel(text, target, shared[name])
    return found


def spills(report: str) -> int:
    """Bytes of registers spilled, stores and loads together, of all kernels in ptxas's report."""
    return sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", report)))


def registers(report: str) -> int:
    """Registers per thread, of the kernel in the report that uses the most."""
    return max(map(int, re.findall(r"Used (\d+) registers", report)))


@functools.cache
def _ptxas() -> str:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        path = pathlib.Path(folder) / "cuda_nvcc" / "bin" / "ptxas"
        if path.exists():
            return str(path)
    raise FileNotFoundError("ptxas: the `aot` extra brings it (nvidia-cuda-nvcc-cu12)")
