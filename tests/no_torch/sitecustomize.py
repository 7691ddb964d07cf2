"""Hides PyTorch from a command that a test starts: users have none, and importing it takes 5 s."""

import importlib.util
from typing import Any

_find_spec = importlib.util.find_spec


def _without_torch(name: str, *args: Any) -> Any:
    return None if name.partition(".")[0] == "torch" else _find_spec(name, *args)


importlib.util.find_spec = _without_torch  # type: ignore[assignment]
