"""Evaluation: suites of questions, asked with every kind of attention, scored and compared."""
