"""Phase 1: the kinds of attention by which a context is encoded."""

from star_jax.prefill.dense import Dense
from star_jax.prefill.kinds import KINDS, Kind, check_kind
from star_jax.prefill.ring import Ring
from star_jax.prefill.star import Star
from star_jax.prefill.ulysses import Ulysses

__all__ = ["KINDS", "Dense", "Kind", "Ring", "Star", "Ulysses", "check_kind"]
