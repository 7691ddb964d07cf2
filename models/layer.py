"""What attention must know of one layer of a model."""

import dataclasses

from star_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One layer, as the model defines it. See `attention.dispatch` for scale and soft cap.

    index: from 0 on. window: how many keys a token sees, its own among them; None: all before it.
    """

    index: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None
    rope: Rope | None  # None: the layer has no positions

    @property
    def reach(self) -> int:
        """See `reach`."""
        return reach(self.window)


def reach(window: int | None) -> int:
    """How many keys before a text are kept for a window: as many as it sees, or a few more.

    The multiple is what kernels read without copying all of them.
    """
    return 0 if window is None else -(-(window - 1) // 8) * 8
