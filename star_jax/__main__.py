"""Lists the commands of star_jax.

python -m star_jax
"""

import ast
import pathlib
import sys

import star_jax
from star_jax.runs import cli

_FOLDER = pathlib.Path(__file__).parent
_COMMANDS = {
    "eval": "eval/__main__.py",
    "report": "report.py",
    "infer": "infer.py",
    "chat": "chat/__main__.py",
    "prepare": "prepare.py",
    "convert": "convert.py",
    "models": "models/__main__.py",
    "serve": "serve/__main__.py",
    "lm_eval": "lm_eval/__main__.py",
}


def commands() -> str:
    """Each command with the first line of its documentation; none is imported for that."""
    lines = ["The commands of star_jax; each has a --help:", ""]
    for name, path in _COMMANDS.items():
        doc = ast.get_docstring(ast.parse((_FOLDER / path).read_text(encoding="utf-8"))) or ""
        lines += [f"  python -m star_jax.{name:<8} {doc.partition(chr(10))[0]}"]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if argv and argv[0] in ("--version", "-version"):
        with cli.printing():
            print(f"star_jax {star_jax.__version__}")
    elif not argv or argv[0] in ("-h", "--help", "-help"):
        with cli.printing():
            print(commands())
    elif argv[0] in _COMMANDS:
        sys.exit(f"error: that command is called as python -m star_jax.{argv[0]}")
    else:
        sys.exit(f"error: unexpected {argv[0]!r}; python -m star_jax lists the commands")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as e:
        sys.exit(f"error: {e}")
