"""Questions that were drawn before: written by `python -m star_jax.prepare`, read by eval.

A directory has a file of JSON lines for each cell, `<length>/<task>.jsonl`, in the published
layout, and manifest.json. While a file is being written, it ends in `.part`.
"""

from star_jax.eval.prepared.reading import attached
from star_jax.eval.prepared.writing import write

__all__ = ["attached", "write"]
