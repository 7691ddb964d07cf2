"""Keeps `transformers` from telling its log in pages what it tries and expects."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def transformers() -> Iterator[None]:
    """Inside, it logs nothing: what fails is said by an error, what is odd by a warning of ours.

    Older ones also warn of what they themselves use and `tokenizers` will not have.
    """
    from transformers.utils import logging  # slow to import

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            yield
    finally:
        logging.set_verbosity(before)
