"""Numbers from callers, checked before they cost anything."""

import numpy as np

MOST = 2**31 - 1  # positions, ids and lengths are int32 on the devices


def whole(name: str, value: object, *, least: int = 1, most: int = MOST) -> int:
    """`value` as an int.

    Raises:
      ValueError: it is no integer, or out of bounds; it says which, and calls it `name`.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be an integer, at least {least}")
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        # Of too many digits Python makes no text.
        shown = int(value) if abs(int(value)) < 10**30 else "(over 30 digits)"
        raise ValueError(f"{name}={shown} must be {bound}")
    return int(value)
