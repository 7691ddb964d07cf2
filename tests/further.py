"""Cases that `make test` leaves to `make test-large`: shorter tests hold what they show."""

from typing import Any

import pytest


def further(*cases: Any) -> list[Any]:
    """They, as parameters of a test; a tuple is one case of several arguments."""
    arguments = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*case, marks=pytest.mark.long) for case in arguments]
