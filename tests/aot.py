"""Programs compiled for GPUs that are not there, and questions about the compiled HLO.

    mesh = aot.gpu_mesh("h200", context=8)
    compiled = aot.compile(f, aot.abstract((8, 4096), "bfloat16", mesh, P("context")))
    program = aot.Program(compiled)
    assert program.collectives() == {"all-gather": 1}

The whole XLA GPU pipeline runs, down to PTX, Pallas kernels and collectives included; only
cuDNN calls cannot be compiled this way. It needs the `aot` extra, and no GPU.
"""

import dataclasses
import functools
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_TARGETS = pathlib.Path(__file__).parent / "gpu_targets"

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

# Instructions that only move what they read.
_MOVES = ("concatenate", "convert", "copy", "dynamic-slice", "pad", "slice", "transpose")
# Instructions that write nothing of their own size: names, views, updates in place.
_FREE = (
    "async-done",
    "async-start",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "dynamic-update-slice",
    "get-tuple-element",
    "optimization-barrier",
    "parameter",
    "tuple",
    "while",
)


@functools.cache
def _devices(kind: str, count: int) -> tuple[Any, ...]:
    config = (_TARGETS / f"{kind}.txtpb").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name=kind, target_config=config, topology=f"1x1x{count}"
    )
    return tuple(topology.devices)


def gpu_mesh(kind: str = "h200", *, data: int = 1, context: int = 8, tensor: int = 1) -> Mesh:
    """A mesh of compile-only GPUs, each a file of `gpu_targets`, with axes of type Auto."""
    shape = (data, context, tensor)
    grid = np.asarray(_devices(kind, int(np.prod(shape)))).reshape(shape)
    return Mesh(grid, ("data", "context", "tensor"), axis_types=(AxisType.Auto,) * 3)


def abstract(
    shape: tuple[int, ...], dtype: Any, mesh: Mesh, spec: PartitionSpec | None = None
) -> jax.ShapeDtypeStruct:
    """An argument that is only a shape, laid out over the mesh (replicated without `spec`)."""
    spec = PartitionSpec() if spec is None else spec
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def compile(fn: Callable[..., Any], *args: Any, **options: Any) -> jax.stages.Compiled:
    """Compiles `fn`, jitted or not, for the devices that its abstract arguments lie on.

    `options` are XLA's; the latency-hiding scheduler is on unless they say otherwise.
    """
    jitted: Any = fn if hasattr(fn, "lower") else jax.jit(fn)
    options = {"xla_gpu_enable_latency_hiding_scheduler": True} | options
    return jitted.lower(*args).compile(compiler_options=options)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction. `type` is its result's, `calls` the computations that it names."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    computation: str
    is_root: bool
    text: str

    @property
    def elements(self) -> int:
        """Elements of the largest array of the result (int8 scratch of library calls aside)."""
        arrays = re.findall(r"([a-z]\w*)\[([\d,]*)\]", self.type)
        if self.opcode == "custom-call" and len(arrays) > 1:
            arrays = [(dtype, dims) for dtype, dims in arrays if dtype not in ("s8", "u8")]
        return max((_size(dims) for _, dims in arrays), default=0)


class Program:
    """The HLO of a compiled program, as it runs on one device."""

    def __init__(self, compiled: jax.stages.Compiled | str):
        text = compiled if isinstance(compiled, str) else compiled.as_text()
        if text is None:
            raise ValueError("the compiled program has no HLO text")
        self.computations: dict[str, list[Instruction]] = {}
        for instruction in _parse(text):
            self.computations.setdefault(instruction.computation, []).append(instruction)
        self._fused = {
            name for i in self.instructions() if i.opcode == "fusion" for name in i.calls
        }

    def instructions(self, within: str | None = None) -> list[Instruction]:
        """All instructions, or those of one computation and of all that it calls."""
        names = list(self.computations) if within is None else self._reachable(within)
        return [i for name in names for i in self.computations[name]]

    def while_bodies(self) -> list[str]:
        """The computations that are loop bodies."""
        loops = [i for i in self.instructions() if i.opcode == "while"]
        return [found[1] for i in loops if (found := re.search(r"body=%?([\w.-]+)", i.text))]

    def collectives(self, within: str | None = None) -> Counter[str]:
        """Collectives by kind. Asynchronous ones count once, one inside a loop counts once."""
        opcodes = (i.opcode.removesuffix("-start") for i in self.instructions(within))
        return Counter(opcode for opcode in opcodes if opcode in COLLECTIVES)

    def hidden_broadcasts(self) -> int:
        """Broadcasts with a matmul scheduled between their start and their end."""
        return self.hidden("collective-broadcast")

    def hidden(self, collective: str) -> int:
        """How many of these collectives have a matmul between their start and their end."""
        instructions = self.instructions()
        starts = [i for i in instructions if i.opcode == f"{collective}-start"]
        starts += [i for i in instructions if i.opcode == "async-start" and collective in i.text]
        hidden = 0
        for start in starts:
            names = [i.name for i in instructions if i.computation == start.computation]
            done = next(i for i in instructions if "-done" in i.opcode and start.name in i.operands)
            between = names[names.index(start.name) + 1 : names.index(done.name)]
            hidden += any(i.name in between and self._is_matmul(i) for i in instructions)
        return hidden

    def moves(self, at_least: int, within: str | None = None) -> list[Instruction]:
        """Instructions that write `at_least` elements or more which they only copied.

        Copies, transposes, slices, concatenations and conversions, alone or fused with each
        other; not those fused into the instruction that consumes them, which write nothing.
        """
        return [i for i in self.writes(at_least, within) if self._is_move(i)]

    def writes(self, at_least: int, within: str | None = None) -> list[Instruction]:
        """Instructions whose result takes `at_least` elements or more of fresh memory."""
        return [
            i
            for i in self.instructions(within)
            if i.computation not in self._fused
            and i.opcode not in _FREE
            and not i.opcode.endswith("-done")
            and i.elements >= at_least
            and not self._updates_in_place(i)
        ]

    def _is_matmul(self, instruction: Instruction) -> bool:
        if instruction.opcode == "custom-call":
            kernels = ("gemm", "star_prefill", "star_decode", "mosaic_gpu")
            return any(kernel in instruction.text for kernel in kernels)
        inside = [i for name in instruction.calls for i in self.computations.get(name, [])]
        return any(i.opcode == "dot" for i in (instruction, *inside))

    def _is_move(self, instruction: Instruction) -> bool:
        if instruction.opcode == "fusion":
            return any(self._moves_a_parameter(root) for root in self._roots(instruction))
        return instruction.opcode.removesuffix("-start") in _MOVES

    def _updates_in_place(self, instruction: Instruction) -> bool:
        if instruction.opcode != "fusion":
            return False
        return all(root.opcode == "dynamic-update-slice" for root in self._roots(instruction))

    def _roots(self, fusion: Instruction) -> list[Instruction]:
        """What a fusion returns, behind the tuple and the views that wrap it."""
        body = {i.name: i for i in self.computations[fusion.calls[0]]}

        def behind(i: Instruction) -> list[Instruction]:
            if i.opcode in ("tuple", "bitcast"):
                return [r for name in i.operands for r in behind(body[name])]
            return [i]

        return [r for i in body.values() if i.is_root for r in behind(i)]

    def _moves_a_parameter(self, root: Instruction) -> bool:
        """Whether only moves lie between a parameter of the fusion and what it returns."""
        body = {i.name: i for i in self.computations[root.computation]}
        moved = False
        while root.opcode in (*_MOVES, "bitcast", "reshape"):
            moved |= root.opcode in _MOVES
            root = body[root.operands[0]]
        return moved and root.opcode == "parameter"

    def _reachable(self, name: str) -> list[str]:
        found = [name]
        for at in found:  # grows while it is walked
            called = (name for i in self.computations[at] for name in i.calls)
            found += [c for c in dict.fromkeys(called) if c not in found]
        return found


def _parse(text: str) -> Iterator[Instruction]:
    computation = ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$", line):
            computation = header[1]
        elif head := re.match(r"\s+(ROOT )?%?([\w.-]+) = ", line):
            type_, rest = _split_type(line[head.end() :])
            opcode, _, rest = rest.partition("(")
            operands, attributes = _until_closed(rest)
            yield Instruction(
                name=head[2],
                opcode=opcode,
                type=type_,
                operands=tuple(re.findall(r"%([\w.-]+)", operands)),
                calls=tuple(_calls(attributes)),
                computation=computation,
                is_root=head[1] is not None,
                text=line.strip(),
            )


def _split_type(text: str) -> tuple[str, str]:
    """Splits `f32[8,128]{1,0} add(...)`, or one with a tuple type, before the opcode."""
    if not text.startswith("("):
        type_, _, rest = text.partition(" ")
        return type_, rest
    inner, rest = _until_closed(text[1:])
    return f"({inner})", rest.lstrip()


def _until_closed(text: str) -> tuple[str, str]:
    """Splits at the parenthesis that closes one opened just before `text`."""
    depth = 1
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return text[:at], text[at + 1 :]
    raise ValueError(f"no closing parenthesis in {text!r}")


def _calls(attributes: str) -> Iterator[str]:
    pattern = r"(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)"
    for names in re.findall(pattern, attributes):
        yield from re.findall(r"[\w.-]+", names)


def _size(dims: str) -> int:
    return int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
