"""Says where the code has left its structure: what depends on what, and how large things are.

    python -m tools.structure

Exceptions are listed by name, and the lists may only shrink: one that is no longer needed is a
problem too.
"""

import ast
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = {"star_jax": "star_jax", "eval": "star_jax.eval", "models": "star_jax.models"}
OTHERS = ("benchmarks", "tools")  # use the library, and are not part of it

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 350, 60, 6
KERNELS: dict[
    str, tuple[str, ...]
] = {  # the body of a kernel is one piece of work, and so is what launches it
    "star_jax/attention/mosaic/decode.py": ("attend", "_kernel"),
    "star_jax/attention/mosaic/prefill.py": ("attend", "_kernel", "_consume"),
}
# The rooms of the house, from the top: each may use what comes after it, and itself.
ROOMS = (
    *(
        "eval",
        "infer",
        "lm_eval",
        "convert",
        "chat",
        "serve",
        "runs",
        "store",
        "engine",
        "encoding",
        "checks",
        "prefill",
        "generate",
        "cache",
    ),
    *("checkpoint", "runtime", "attention", "text", "models"),
)
ABOVE_EVAL = (
    "star_jax/chat/__main__.py",
    "star_jax/prepare.py",
    "star_jax/report.py",
    "star_jax/serve/__main__.py",
)  # commands that use it
PRIVATE_JAX = ("star_jax/attention/cudnn.py",)  # taken by name alone


@dataclasses.dataclass(frozen=True)
class Module:
    """A file of the library, or of what uses it."""

    path: str  # from the root
    name: str  # as it is imported
    tree: ast.Module
    lines: int

    def imports(self) -> set[str]:
        """All names that it imports, also within functions: a.b of `from a import b`."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def functions(self) -> Iterator[ast.FunctionDef]:
        """All of them, methods and inner ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef))


Modules = Mapping[str, Module]  # by name


def read(root: pathlib.Path = ROOT) -> Modules:
    """The modules of the library, and of benchmarks and tools."""
    found = {}
    for folder, package in (*FOLDERS.items(), *((name, name) for name in OTHERS)):
        for file in sorted((root / folder).rglob("*.py")):
            parts = file.relative_to(root / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            text = file.read_text()
            path = file.relative_to(root).as_posix()
            found[name] = Module(path, name, ast.parse(text), len(text.splitlines()))
    return found


def attention_is_declared_once(modules: Modules) -> Iterator[str]:
    """`partial_attention`, with few parameters."""
    name = "partial_attention"
    found = [(m, f) for m in modules.values() for f in m.functions() if f.name == name]
    if [module.path for module, _ in found] != ["star_jax/attention/dispatch.py"]:
        yield f"{name} is declared in {[m.path for m, _ in found]}, and not in dispatch.py alone"
    for module, function in found:
        if (count := _parameters(function)) > MOST_PARAMETERS:
            yield f"{module.path}: {name} has {count} parameters, above {MOST_PARAMETERS}"


def families(modules: Modules) -> tuple[str, ...]:
    """The modules with families: the registry takes a record, a constant, from each."""
    used = modules["star_jax.models.registry"].imports()
    return tuple(
        sorted({_module(name, modules) for name in used if name.rpartition(".")[2].isupper()})
    )


def families_are_the_models_own(modules: Modules) -> Iterator[str]:
    """Outside models/ nothing names one."""
    outside = {n: m for n, m in modules.items() if not m.path.startswith("models/")}
    yield from _only(outside, families(modules), (), "names a family of models")


def evaluation_is_on_top(modules: Modules) -> Iterator[str]:
    """The library does not use it, but for commands."""
    below = {n: m for n, m in modules.items() if m.path.startswith(("star_jax/", "models/"))}
    yield from _only(below, ("star_jax.eval",), ABOVE_EVAL, "imports star_jax.eval")


def rooms_use_those_below(modules: Modules) -> Iterator[str]:
    """Who uses whom goes one way; what stands in no room may be used by all."""
    for name, module in modules.items():
        if (room := _room(name)) not in ROOMS or name.endswith(".__main__"):
            continue  # a command stands above all of them
        for used in sorted(module.imports()):
            other = _room(used)
            if other in ROOMS and ROOMS.index(other) < ROOMS.index(room):
                yield f"{module.path}: {room} uses {used}, which stands above it"


def jax_is_used_as_published(modules: Modules) -> Iterator[str]:
    """Nothing private of it."""
    yield from _only(modules, ("jax._src",), PRIVATE_JAX, "imports jax._src")


def nothing_imports_itself(modules: Modules) -> Iterator[str]:
    """No cycle, at whatever place the imports stand; what a package's parents import apart."""
    edges = {
        name: sorted({_module(i, modules) for i in module.imports()} & modules.keys() - {name})
        for name, module in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            yield "a cycle of imports: " + " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for other in edges[name]:
                yield from visit(other, [*path, name])
            done.add(name)

    for name in edges:
        yield from visit(name, [])


def functions_fit_a_screen(modules: Modules) -> Iterator[str]:
    """But kernels."""
    long = {
        (module.path, function.name): (function.end_lineno or 0) - function.lineno + 1
        for module in modules.values()
        for function in module.functions()
    }
    long = {place: lines for place, lines in long.items() if lines > MOST_FUNCTION_LINES}
    known = {(path, name) for path, names in KERNELS.items() for name in names}
    for (path, name), lines in long.items():
        if (path, name) not in known:
            yield f"{path}: {name} has {lines} lines, above {MOST_FUNCTION_LINES}"
    for path, name in known - long.keys():
        yield f"{path}: {name} is no longer too long: take it off the list"


def files_are_short(modules: Modules) -> Iterator[str]:
    """One idea each."""
    long = {m.path: m.lines for m in modules.values() if m.lines > MOST_LINES}
    for path, lines in long.items():
        yield f"{path} has {lines} lines, above {MOST_LINES}"


RULES: tuple[Callable[[Modules], Iterator[str]], ...] = (
    attention_is_declared_once,
    families_are_the_models_own,
    evaluation_is_on_top,
    rooms_use_those_below,
    jax_is_used_as_published,
    nothing_imports_itself,
    functions_fit_a_screen,
    files_are_short,
)


def problems(modules: Modules) -> list[str]:
    """What breaks a rule, each in a line."""
    return [problem for rule in RULES for problem in rule(modules)]


def _only(
    modules: Modules, names: tuple[str, ...], allowed: tuple[str, ...], does: str
) -> Iterator[str]:
    """Problems with modules that import one of the names, or what is in it."""
    found = {
        module.path
        for module in modules.values()
        if any(f"{i}.".startswith(f"{name}.") for i in module.imports() for name in names)
    }
    yield from (f"{path} {does}" for path in sorted(found - set(allowed)))
    yield from (
        f"{path} no longer {does}: take it off the list" for path in sorted(set(allowed) - found)
    )


def _room(name: str) -> str:
    """The folder or file of the library, or nothing: `cache` of `star_jax.cache.layer`."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "star_jax" else ""


def _module(name: str, modules: Modules) -> str:
    """The module that an imported name is, or is in."""
    return name if name in modules else name.rpartition(".")[0]


def _parameters(function: ast.FunctionDef) -> int:
    a = function.args
    return len([*a.posonlyargs, *a.args, *a.kwonlyargs]) + bool(a.vararg) + bool(a.kwarg)


def main() -> None:
    found = problems(read())
    print("\n".join(found) or "the structure holds")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
