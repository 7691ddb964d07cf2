"""Lists the families of models that are supported, and says whether a checkpoint is of one.

    python -m star_jax.models
    python -m star_jax.models --model=DIR_OR_HUB_ID

Of a checkpoint on the hub, only its configuration is fetched. Weights are not looked at.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import flags

from star_jax import checkpoint, models
from star_jax.runs import cli

_MODEL = flags.DEFINE_string("model", "", "A directory, or a hub id.")


def main(argv: Sequence[str]) -> None:
    del argv
    text = about(_MODEL.value) if _MODEL.present else listing()
    with cli.printing():
        print(text)


def listing() -> str:
    """Each family with the fields of `config.json` that it alone reads, and those of all."""
    families, head = models.families().values(), "model_type"
    wide = max(len(name) for name in (head, *models.families()))
    lines = [f"{head:<{wide}}  models"]
    common = frozenset.intersection(*(family.read for family in families))
    for family in families:
        own = ", ".join(sorted(family.read - common))
        lines.append(f"{family.name:<{wide}}  {family.models}{own and f'; reads {own}'}")
    return "\n".join([*lines, "", f"All read {', '.join(sorted(common))}."])


def about(source: str) -> str:
    """What a checkpoint is, in one line.

    Raises:
      FileNotFoundError, ValueError, NotImplementedError: why it is not supported.
    """
    directory = checkpoint.resolve(source, config_only=True)
    config, quantization = models.read(directory), models.read_quantization(directory)
    sizes: list[int] = []

    def make(name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.ShapeDtypeStruct:
        sizes.append(math.prod(shape))
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    models.build(config, make)
    return (
        f"{source}: supported, as {config.family}: {sum(sizes):,} parameters, "
        f"{config.num_layers} layers, {config.max_position_embeddings} positions"
        + _windows(config)
        + (f"; weights in {quantization.name}, dequantised on load" if quantization else "")
    )


def _windows(config: models.DecoderConfig) -> str:
    if config.window is None:
        return ""
    return f"; {len(config.windowed)} layers have a window of {config.window}, exact under star"


if __name__ == "__main__":
    cli.run(main)
