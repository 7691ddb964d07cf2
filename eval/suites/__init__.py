"""The suites: where questions come from. Each is a file, and stands in one registry."""

from star_jax.eval.suites import babilong, infinitebench, jsonl, ruler
from star_jax.eval.suites.suite import Cell, Suite

SUITES: dict[str, Suite] = {
    "babilong": babilong.SUITE,
    "infinitebench": infinitebench.SUITE,
    "jsonl": jsonl.SUITE,
    "ruler": ruler.SUITE,
}

__all__ = ["SUITES", "Cell", "Suite"]
