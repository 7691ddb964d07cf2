"""Flax (nnx) ports of decoders. They hold weights, and know nothing of how attention is done."""
