"""Phase 2: questions asked of an encoded context, and the loop over the tokens of answers."""

from star_jax.generate.generation import Generation
from star_jax.generate.likelihood import Scores
from star_jax.generate.sampling import Sampling
from star_jax.generate.stopping import Answer, Event

__all__ = ["Answer", "Event", "Generation", "Sampling", "Scores"]
