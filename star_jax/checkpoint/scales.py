"""Matrices in 8 bits, each joined with the tensor that holds its scales.

That a matrix is in 8 bits, its dtype says; which of its values share a scale, the scale's shape.
"""

import dataclasses
import os

import numpy as np

from star_jax.checkpoint import tensor_files
from star_jax.checkpoint.tensor_files import Scale, Scan, Tensor
from star_jax.models import Quantization

_FP8 = "F8_E4M3"
# Of activations, and of a cache in 8 bits: neither is made here.
_OTHERS = (".input_scale", ".output_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale")


def join(found: Scan, quantization: Quantization | None) -> Scan:
    """The tensors of a model, of which none is a scale, and all that is wrong with their scales."""
    tensors, problems, unread = dict(found.tensors), list(found.problems), set(found.unread)
    for name, tensor in found.tensors.items():
        names = _scales_of(name, quantization)
        scales = [tensors.pop(n) for n in names if n in tensors]
        if tensor.dtype == (quantization.dtype if quantization else _FP8):
            try:
                if not unread.intersection(names):  # or it is said of their file already
                    tensors[name] = _joined(tensor, scales, quantization)
                    continue
            except ValueError as e:
                problems.append(str(e))
            del tensors[name]
            unread.add(name)
        elif scales:
            problems.append(f"{_where(scales[0])}: {name} is {tensor.dtype}, and has no scales")
    if quantization is not None:
        tensors = {name: x for name, x in tensors.items() if not name.endswith(_OTHERS)}
    return Scan(tensors, problems, unread)


def _scales_of(name: str, quantization: Quantization | None) -> list[str]:
    """What the tensor with the scales of this one may be called."""
    layer, dot, last = name.rpartition(".")
    if quantization is None or last != "weight":
        return []
    return [layer + dot + scale for scale in quantization.scales]


def _joined(tensor: Tensor, scales: list[Tensor], quantization: Quantization | None) -> Tensor:
    """A matrix that is multiplied by its scales when it is read."""
    if quantization is None:
        raise ValueError(
            f"{_where(tensor)} is {tensor.dtype}, and no quantization_config in config.json says "
            "how it is scaled"
        )
    if len(tensor.shape) != 2:
        raise ValueError(f"{_where(tensor)} is {tensor.dtype}, and no matrix: {tensor.shape}")
    if len(scales) != 1:
        names = " and ".join(scale.name for scale in scales)
        raise ValueError(
            f"{_where(tensor)} is {tensor.dtype}, and has {names or 'no scales'}: it needs a "
            f"tensor {' or '.join(quantization.scales)} beside it"
        )
    (scale,) = scales
    blocks = _blocks(tensor.shape, quantization)
    if scale.shape not in blocks:
        raise ValueError(
            f"{_where(scale)}: shape {scale.shape}, not {' or '.join(map(str, blocks))}, for a "
            f"matrix of {tensor.shape}"
        )
    if scale.dtype not in tensor_files.DTYPES:
        raise ValueError(
            f"{_where(scale)}: {scale.dtype} is not one of {', '.join(tensor_files.DTYPES)}"
        )
    joined = Scale(scale, tensor.dtype, blocks[scale.shape])
    values = tensor_files.scales(joined)
    if (bad := values[~(np.isfinite(values) & (values > 0))]).size:
        raise ValueError(f"{_where(scale)}: {bad[0]} is no scale: it must be finite, and above 0")
    return dataclasses.replace(tensor, dtype="F32", scale=joined)


def _blocks(shape: tuple[int, ...], quantization: Quantization) -> dict[tuple[int, ...], tuple]:
    """The block of values that share a scale, by the shape of the scales."""
    rows, columns = shape
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    if "tensor" in quantization.per:
        found |= dict.fromkeys([(), (1,), (1, 1)], (rows, columns))
    if "channel" in quantization.per:
        found[rows, 1] = (1, columns)
    if quantization.block is not None:
        high, wide = quantization.block
        found[-(-rows // high), -(-columns // wide)] = quantization.block
    return found


def _where(tensor: Tensor) -> str:
    return f"{tensor.name} in {os.path.basename(tensor.path)}"
