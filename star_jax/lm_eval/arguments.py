"""What --model_args say: a model, its attention and its mesh, checked before weights are read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax import checkpoint
from star_jax.engine import DTYPES, Engine
from star_jax.prefill.kinds import KINDS, Kind
from star_jax.runs.devices import MeshConfig, make_mesh
from star_jax.sizes import shown, whole
from star_jax.text.tokenizer import Tokenizer

CUTS = ("auto", "line")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """As the command's help has them; batch_size is the command's own.

    Raises:
      ValueError: one cannot be.
    """

    pretrained: Any
    attention: Any
    block_size: Any = None
    anchor_size: Any = None
    halo: Any = 0
    correction: Any = "none"
    stride: Any = 64
    dtype: Any = "bfloat16"
    data: Any = 1
    context: Any = 1
    tensor: Any = 1
    cpu_devices: Any = 0
    max_length: Any = None
    cut: Any = "auto"
    enable_thinking: Any = None
    batch_size: Any = 1

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Arguments":
        """From their names; raises ValueError if one is unknown or missing, too."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise ValueError(
                f"model_args: unknown {', '.join(unknown)}; there is {', '.join(known)}"
            )
        for name in ("pretrained", "attention"):
            if given.get(name) in (None, ""):
                raise ValueError(f"model_args: {name} is missing")
        return cls(**given)

    def __post_init__(self) -> None:
        _check_known("dtype", self.dtype, tuple(DTYPES))
        whole("cpu_devices", self.cpu_devices, least=0)
        check_requests(self.batch_size, self.max_length, self.cut)
        if self.enable_thinking not in (None, True, False):
            raise ValueError(f"enable_thinking={shown(self.enable_thinking)} must be True or False")

    def load(self) -> tuple[Engine, str]:
        """The engine, and the checkpoint's directory.

        Raises:
          OSError, ValueError, NotImplementedError: the model or its attention cannot be.
        """
        kind = self._kind()
        axes = {name: getattr(self, name) for name in ("data", "context", "tensor", "cpu_devices")}
        mesh = make_mesh(MeshConfig(**axes), prefix="")
        directory = checkpoint.resolve(str(self.pretrained))
        if Tokenizer.from_pretrained(directory) is None:
            raise ValueError(f"pretrained={self.pretrained} has no tokenizer files; tasks are text")
        engine = Engine.from_pretrained(directory, mesh=mesh, attention=kind, dtype=self.dtype)
        return engine, directory

    def _kind(self) -> Kind:
        _check_known("attention", self.attention, tuple(KINDS))
        kind = KINDS[self.attention]
        if kind.is_exact:
            return kind()
        if self.block_size is None:
            raise ValueError(f"attention={self.attention} needs a block_size, in tokens")
        return kind(
            block_size=self.block_size,
            anchor_size=self.anchor_size,
            halo=self.halo,
            correction=None if self.correction == "none" else self.correction,
            stride=self.stride,
        )


def _check_known(name: str, value: Any, known: Sequence[str]) -> None:
    """`known` is a sequence, so that `value` may be anything: a list has no hash."""
    if value not in known:
        raise ValueError(f"{name}={shown(value)} must be one of {', '.join(known)}")


def check_requests(batch_size: Any, max_length: Any, cut: Any) -> None:
    """Refuses what cannot be, of the settings that say how requests are answered."""
    whole("batch_size", batch_size)
    if max_length is not None:
        whole("max_length", max_length)
    if cut not in CUTS and (type(cut) is not int or cut < 1):
        raise ValueError(f"cut={shown(cut)} must be {', '.join(CUTS)}, or a number of tokens")
