"""Decoders (Flax nnx) and their families. They know nothing of how attention is done."""

from star_jax.models.config import DecoderConfig
from star_jax.models.config_reader import from_dict, read
from star_jax.models.decoder import Attend, Decoder, Layer, WeightMaker
from star_jax.models.family import Family, Part
from star_jax.models.layer import LayerSpec
from star_jax.models.quantization import Quantization
from star_jax.models.quantization import read as read_quantization
from star_jax.models.registry import build, families, family_of

__all__ = [
    "Attend",
    "Decoder",
    "DecoderConfig",
    "Family",
    "Layer",
    "LayerSpec",
    "Part",
    "Quantization",
    "WeightMaker",
    "build",
    "families",
    "family_of",
    "from_dict",
    "read",
    "read_quantization",
]
