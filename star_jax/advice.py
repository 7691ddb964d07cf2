"""What is unwise, told to whoever has called the library."""

import sys
import warnings


class Advice(UserWarning):
    """Something runs as asked, and another setting would do the same faster.

    It has a class of its own for those who say it in their own way, and silence it.
    """


def warn(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Warns whoever has called the library."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == "star_jax":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"star_jax: {message}", category, stacklevel=level)
