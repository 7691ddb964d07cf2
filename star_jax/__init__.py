"""Star Attention for JAX: questions over very long contexts, on many GPUs."""

import sys

from star_jax import interrupts

# Python is about to run one of our commands, and what is imported first takes seconds.
if sys.argv[:1] == ["-m"] and interrupts.is_ours(sys.orig_argv):
    interrupts.catch()

from star_jax import version
from star_jax.cache.context import Context, ContextBatch
from star_jax.engine import Engine
from star_jax.generate.generation import Generation
from star_jax.generate.likelihood import Scores
from star_jax.generate.sampling import Sampling
from star_jax.generate.stopping import Answer, Event
from star_jax.prefill.anchors import OtherAnchor
from star_jax.prefill.dense import Dense
from star_jax.prefill.keeping import Keep
from star_jax.prefill.ring import Ring
from star_jax.prefill.star import Star
from star_jax.prefill.steps import Prefilling
from star_jax.prefill.streaming import Streaming
from star_jax.prefill.ulysses import Ulysses
from star_jax.runtime.mesh import make_mesh, simulate_cpu_devices

__version__ = version.read()

__all__ = [
    "Answer",
    "Context",
    "ContextBatch",
    "Dense",
    "Engine",
    "Event",
    "Generation",
    "Keep",
    "OtherAnchor",
    "Prefilling",
    "Ring",
    "Sampling",
    "Scores",
    "Star",
    "Streaming",
    "Ulysses",
    "__version__",
    "make_mesh",
    "simulate_cpu_devices",
]
