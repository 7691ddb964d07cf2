"""The structure of the code holds; and each rule finds what breaks it."""

import ast

import pytest
from further import further

from tools import structure

MODULES = structure.read()


def test_the_structure_holds():
    assert structure.problems(MODULES) == []


def broken(path, code, *, lines=1):
    """The modules, with one more or another one in the place of one that there is."""
    names = [name for name, module in MODULES.items() if module.path == path]
    name = names[0] if names else path.removesuffix(".py").replace("/", ".")
    return {**MODULES, name: structure.Module(path, name, ast.parse(code), lines)}


LONG = "def long():\n" + "    pass\n" * 60


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("star_jax/new.py", "def partial_attention(q): ...", "not in dispatch.py alone"),
        (
            "star_jax/attention/dispatch.py",
            "def partial_attention(a, b, c, d, *, e, f, g): ...",
            "7 parameters",
        ),
        ("star_jax/new.py", "import star_jax.models.llama as x", "new.py names a family"),
        (
            "star_jax/new.py",
            "def f():\n    import star_jax.eval.suites",
            "imports star_jax",
        ),
        ("star_jax/cache/sharded.py", "from star_jax import engine", "a cycle of imports: "),
        ("star_jax/models/new.py", "import star_jax.cache", "models uses star_jax.cache, which"),
        *further(
            ("star_jax/new.py", "from star_jax.models import llama", "new.py names a family"),
            ("star_jax/new.py", "from jax._src.core import Jaxpr", "imports jax._src"),
            ("star_jax/new.py", LONG, "new.py: long has 61 lines, above 60"),
            ("star_jax/attention/cudnn.py", "", "cudnn.py no longer imports jax._src"),
            (
                "star_jax/attention/mosaic/decode.py",
                "",
                "decode.py: _kernel is no longer too long",
            ),
        ),
    ],
)
def test_what_breaks_a_rule_is_found(path, code, message):
    found = structure.problems(broken(path, code))
    assert any(message in problem for problem in found), found


def test_a_long_file_is_found():
    found = structure.problems(broken("star_jax/new.py", "", lines=351))
    assert found == ["star_jax/new.py has 351 lines, above 350"]
