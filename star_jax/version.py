"""The version of the library, from the one place where it is written: pyproject.toml."""

import importlib.metadata
import pathlib
import tomllib

NAME = "star-jax"


def read() -> str:
    """What pyproject.toml says in a clone, and what an installation made of that elsewhere."""
    file = pathlib.Path(__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == NAME:
            return str(project["version"])
    return importlib.metadata.version(NAME)
