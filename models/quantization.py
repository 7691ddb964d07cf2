"""How a checkpoint stores matrices in 8 bits, by `quantization_config` in its `config.json`.

Which matrices these are, the dtype of each tensor in the files says: lists of layers that are left
out are not needed. What a server would do with activations and its cache is not done here: values
are multiplied by their scales as they are loaded.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from star_jax import json_files
from star_jax.json_files import shown
from star_jax.models.config_fields import NONE, OFF, is_one_of

FIELD = "quantization_config"
_PLAIN = (
    "take the repository with the plain weights that it was made from, or dequantise it with "
    "transformers and save_pretrained()"
)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What the values of a matrix in 8 bits are multiplied by.

    dtype: of the values, in safetensors' word.
    scales: names that the tensor with the scales may have, beside its matrix's `weight`.
    per: what one scale may be for: a "tensor", a "channel" (a row), a "block".
    block: rows and columns of a block; None: there are no blocks.
    """

    dtype: str
    scales: tuple[str, ...]
    per: frozenset[str]
    block: tuple[int, int] | None

    @property
    def name(self) -> str:
        """For people."""
        return {"F8_E4M3": "FP8", "I8": "INT8"}[self.dtype]


def read(directory: str | os.PathLike[str]) -> Quantization | None:
    """What the `config.json` of a checkpoint says; None where there is none.

    Raises:
      ValueError, NotImplementedError: as `from_fields`; the file is not JSON.
    """
    path = os.path.join(directory, "config.json")
    return from_fields(json_files.read(path)) if json_files.is_there(path) else None


def from_fields(fields: Mapping[str, Any]) -> Quantization | None:
    """What the fields of a `config.json` say of weights in 8 bits; None: they are not.

    Raises:
      NotImplementedError: they are stored in a way that is not supported.
      ValueError: a field is unknown or impossible.
    """
    if (section := fields.get(FIELD)) is None:
        return None
    if not isinstance(section, dict) or "quant_method" not in section:
        raise NotImplementedError(
            f"config.json: {FIELD}={shown(section)} is not supported, as it names no "
            f"quant_method; {_PLAIN}"
        )
    method = section["quant_method"]
    if not isinstance(method, str) or method not in _METHODS:
        raise _unsupported("quant_method", method, tuple(_METHODS))
    return _METHODS[method](section)


def without(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration, of weights that are stored as they are."""
    return {name: value for name, value in fields.items() if name != FIELD}


def only_gguf(directory: str | os.PathLike[str]) -> str:
    """What to add where other files are missed in a directory that has GGUF files; "" if none."""
    has = os.path.isdir(directory) and any(n.endswith(".gguf") for n in os.listdir(directory))
    return f"; GGUF files are not read: {_PLAIN}" if has else ""


def _fp8(section: dict[str, Any]) -> Quantization:
    """As DeepSeek and Qwen publish it, and transformers' FineGrainedFP8Config writes it."""
    _check(
        section,
        read="weight_block_size",
        harmless="""activation_scheme dequantize ignored_layers kv_cache_scheme
            modules_to_not_convert scale_fmt""",
        only={"expert_dtype": ("fp8", None), "fmt": ("e4m3", None), "modules_to_convert": NONE},
    )
    block = section.get("weight_block_size")
    return Quantization(
        dtype="F8_E4M3",
        scales=("weight_scale_inv", "weight_scale"),  # despite its name, it is multiplied by too
        per=frozenset({"tensor" if block is None else "block"}),
        block=None if block is None else _block("weight_block_size", block),
    )


def _fbgemm(section: dict[str, Any]) -> Quantization:
    """As Meta publishes Llama 3.1 405B: a scale for each row."""
    _check(section, harmless="activation_scale_ub modules_to_not_convert")
    return Quantization("F8_E4M3", ("weight_scale",), frozenset({"channel"}), None)


def _compressed_tensors(section: dict[str, Any]) -> Quantization:
    """As llm-compressor writes it: groups of layers, each with a scheme."""
    sparsity = section.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format") == "dense":  # they are all there
        section = {**section, "sparsity_config": None}
    _check(
        section,
        read="config_groups",
        harmless="""dequantize global_compression_ratio ignore kv_cache_scheme provider
            quantization_status run_compressed use_optimized_inference version""",
        only={
            "format": tuple(_FORMATS),
            "sparsity_config": (None, {}),
            "transform_config": (None, {}),
        },
    )
    groups = section.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"config.json: {FIELD}: config_groups={shown(groups)} must have groups")
    found = {_of_group(name, group) for name, group in groups.items()}
    dtypes, blocks = {one.dtype for one in found}, {one.block for one in found} - {None}
    if len(dtypes) > 1 or len(blocks) > 1:
        raise NotImplementedError(
            f"config.json: {FIELD}: config_groups of different "
            f"{'types' if len(dtypes) > 1 else 'block_structure'} are not supported; {_PLAIN}"
        )
    return Quantization(
        dtype=dtypes.pop(),
        scales=("weight_scale",),
        per=frozenset.union(*(one.per for one in found)),
        block=blocks.pop() if blocks else None,
    )


# Of llm-compressor's formats; others pack several values into one.
_FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
_TYPES = {"float": "F8_E4M3", "int": "I8"}


def _of_group(name: str, group: Any) -> Quantization:
    """The scheme of one group of layers."""
    where = f"config_groups: {shown(name)}: "
    if not isinstance(group, dict) or not isinstance(weights := group.get("weights"), dict):
        raise NotImplementedError(
            f"config.json: {FIELD}: {where}{shown(group)} without a section 'weights' is not "
            f"supported; {_PLAIN}"
        )
    _check(
        group,
        where,
        read="weights",
        harmless="input_activations output_activations targets",
        only={"format": (*_FORMATS, None)},
    )
    cut = weights.get("strategy") == "block"
    _check(
        weights,
        f"{where}weights: ",
        read="block_structure",
        harmless="actorder observer observer_kwargs scale_dtype zp_dtype",
        only={
            "dynamic": OFF,
            "group_size": (None, -1),  # -1 is a row
            "num_bits": (8,),
            "strategy": ("tensor", "channel", "block"),
            "symmetric": (True,),
            "type": tuple(_TYPES),
            **({} if cut else {"block_structure": NONE}),
        },
        needed=("num_bits", "strategy", "symmetric", "type"),
    )
    return Quantization(
        dtype=_TYPES[weights["type"]],
        scales=("weight_scale",),
        per=frozenset({weights["strategy"]}),
        block=_block("block_structure", weights.get("block_structure")) if cut else None,
    )


_METHODS: dict[str, Callable[[dict[str, Any]], Quantization]] = {
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fbgemm,
    "fp8": _fp8,
}


def _check(
    section: dict[str, Any],
    where: str = "",
    *,
    read: str = "",
    harmless: str,
    only: Mapping[str, tuple[Any, ...]] | None = None,
    needed: tuple[str, ...] = (),
) -> None:
    """Refuses fields that are unknown, or not as they may be. Names are parted by blanks."""
    only = only or {}
    known = {"quant_method", *read.split(), *harmless.split(), *only}
    if unknown := sorted(set(section) - known):
        raise ValueError(
            f"config.json: {FIELD}: {where}unknown fields {shown(unknown)}: they may change how "
            "weights are stored. If they do not, take them out of the file."
        )
    for name, allowed in only.items():
        if (name in section or name in needed) and not is_one_of(section.get(name), allowed):
            raise _unsupported(f"{where}{name}", section.get(name), allowed)


def _unsupported(name: str, value: Any, allowed: tuple[Any, ...]) -> NotImplementedError:
    return NotImplementedError(
        f"config.json: {FIELD}: {name}={shown(value)} is not supported, only "
        f"{' or '.join(map(repr, allowed))}; {_PLAIN}"
    )


def _block(name: str, value: Any) -> tuple[int, int]:
    """Rows and columns of a block."""
    is_pair = isinstance(value, list) and len(value) == 2
    if not (is_pair and all(type(n) is int and 0 < n < 2**31 for n in value)):
        raise ValueError(
            f"config.json: {FIELD}: {name}={shown(value)} must be rows and columns, above 0"
        )
    return value[0], value[1]
