"""Evaluation: suites of questions, asked with every kind of attention, scored and compared."""

from star_jax.eval.reporting.answers import Answers, load

__all__ = ["Answers", "load"]
