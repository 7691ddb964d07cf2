"""The suites: where questions come from. Each is a file, and stands in one registry."""

from star_jax.eval.suites import jsonl, ruler
from star_jax.eval.suites.suite import Cell, Suite

SUITES: dict[str, Suite] = {"jsonl": jsonl.SUITE, "ruler": ruler.SUITE}

__all__ = ["SUITES", "Cell", "Suite"]
