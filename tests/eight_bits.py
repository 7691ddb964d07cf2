"""Matrices in 8 bits, as the tools that publish them store them: quantised here, in NumPy."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

Tensors = dict[str, np.ndarray]
_LARGEST = {np.dtype(ml_dtypes.float8_e4m3fn): 448.0, np.dtype(np.int8): 127.0}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to store them: what `config.json` says, and what the scales are.

    block: rows and columns that share a scale; None: all. A row is (1, 0).
    """

    config: dict[str, Any]
    scale: str
    block: tuple[int, int] | None
    shape: tuple[int, ...] | None = None  # of the scales, where there is one for the whole matrix
    scale_dtype: type = np.float32
    dtype: type = ml_dtypes.float8_e4m3fn
    others: tuple[str, ...] = ()  # tensors of activations and caches


def fp8(block: tuple[int, int] | None = None, **fields: Any) -> dict[str, Any]:
    """As DeepSeek and Qwen publish it."""
    size = None if block is None else list(block)
    said: dict[str, Any] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"}
    return {**said, "weight_block_size": size, **fields}


def compressed(strategy: str, block: tuple[int, int] | None = None, **fields: Any) -> dict:
    """As llm-compressor writes it; `fields` are of the weights."""
    weights: dict[str, Any] = {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": None,
        "num_bits": 8, "observer": "minmax", "observer_kwargs": {}, "strategy": strategy,
        "symmetric": True, "type": "float",
    }  # fmt: skip
    weights |= {"block_structure": None if block is None else list(block), **fields}
    group = {
        "input_activations": {"dynamic": True, "num_bits": 8, "strategy": "token"},
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group},
        "format": "int-quantized" if weights["type"] == "int" else "float-quantized",
        "global_compression_ratio": 1.46,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


_STATIC = ("input_scale", "output_scale")
KINDS: dict[str, Kind] = {
    # 40 and 24 divide none of the matrices' sides: the last blocks are cut.
    "fp8, blocks": Kind(fp8((40, 24)), "weight_scale_inv", (40, 24)),
    "fp8, blocks of 128": Kind(
        fp8((128, 128), modules_to_not_convert=["lm_head"], scale_fmt="ue8m0"),
        "weight_scale_inv", (128, 128), scale_dtype=ml_dtypes.bfloat16,
    ),
    "fp8, whole": Kind(fp8(), "weight_scale_inv", None, ()),
    "fp8, whole and static": Kind(
        {"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8"},
        "weight_scale", None, (), scale_dtype=np.float16, others=("input_scale",),
    ),
    "fbgemm": Kind(
        {"activation_scale_ub": 1200.0, "modules_to_not_convert": [], "quant_method": "fbgemm_fp8"},
        "weight_scale", (1, 0),
    ),
    "compressed, whole": Kind(compressed("tensor"), "weight_scale", None, (1,), others=_STATIC),
    "compressed, rows": Kind(
        compressed("channel"), "weight_scale", (1, 0), scale_dtype=ml_dtypes.bfloat16
    ),
    "compressed, blocks": Kind(compressed("block", (16, 40)), "weight_scale", (16, 40)),
    "compressed, integers": Kind(
        compressed("channel", type="int"), "weight_scale", (1, 0), dtype=np.int8
    ),
}  # fmt: skip


def quantised(kind: Kind, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """A checkpoint's tensors with its projections in 8 bits, and what all of them stand for."""
    stored, meant = dict(tensors), dict(tensors)
    for name, x in tensors.items():
        if not name.endswith("_proj.weight"):
            continue
        scales, spread = _scales(kind, x.astype(np.float32))
        values = x.astype(np.float32) / spread
        if kind.dtype is np.int8:
            values = np.rint(values)
        stored[name] = values.astype(kind.dtype)
        layer = name.removesuffix("weight")
        stored[layer + kind.scale] = scales
        stored |= {layer + other: np.ones(1, np.float32) for other in kind.others}
        meant[name] = stored[name].astype(np.float32) * spread
    return stored, meant


def _scales(kind: Kind, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales as they are stored, and for each value its own."""
    rows, columns = x.shape
    high, wide = kind.block or x.shape
    wide = wide or columns
    cut = [
        [x[i : i + high, j : j + wide] for j in range(0, columns, wide)]
        for i in range(0, rows, high)
    ]
    largest: np.ndarray = np.asarray([[np.abs(block).max() for block in line] for line in cut])
    # A little more, so that no value overflows when the scale is rounded.
    scales: np.ndarray = (largest * 1.01 / _LARGEST[np.dtype(kind.dtype)]).astype(kind.scale_dtype)
    spread = np.repeat(np.repeat(scales.astype(np.float32), high, 0), wide, 1)[:rows, :columns]
    return scales if kind.shape is None else scales.reshape(kind.shape), spread
