"""Numbers from callers, checked before they cost anything."""

import numpy as np

from star_jax.printable import printable

MOST = 2**31 - 1  # positions, ids and lengths are int32 on the devices
SHOWN = 60  # characters of a value in a message


def whole(name: str, value: object, *, least: int = 1, most: int = MOST) -> int:
    """`value` as an int.

    Raises:
      ValueError: it is no integer, or out of bounds; it says which, and calls it `name`.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name}={shown(value)} must be an integer, at least {least}")
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise ValueError(f"{name}={shown(int(value))} must be {bound}")
    return int(value)


def shown(value: object) -> str:
    """A value that cannot be, for a message: short, and in one line."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "(over 30 digits)"  # of too many of them Python makes no text
    try:
        text = printable(" ".join(repr(value).split()))
    except Exception:  # of anyone's `__repr__`, and of what holds such a number
        text = f"({type(value).__name__})"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
