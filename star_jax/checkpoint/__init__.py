"""Checkpoints: found, checked, read and written, and fingerprinted."""

from star_jax.checkpoint.loading import SMALL_FILES, find, load, resolve, weight_files

__all__ = ["SMALL_FILES", "find", "load", "resolve", "weight_files"]
