"""What `--help` says of the configuration: every field, from its dataclass' documentation."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from star_jax.eval.settings import EvalConfig


class Setting(NamedTuple):
    """A field of the configuration, with its section; `default` is None where it has none."""

    name: str
    type: str
    default: object
    doc: str


def settings() -> Iterator[Setting]:
    """Every field, in the order of the dataclasses."""
    for section in dataclasses.fields(EvalConfig):
        if isinstance(section.type, type) and dataclasses.is_dataclass(section.type):
            yield from _fields(section.type, prefix=f"{section.name}.")
    yield from _fields(EvalConfig)


def text(*, leaving_out: tuple[str, ...] = ()) -> str:
    """The settings as the end of a command's help, but for those of sections that it leaves out."""
    lines = ["", "Settings, for a config file or as --config.NAME=VALUE:", ""]
    for one in settings():
        if one.name.startswith(leaving_out):
            continue
        default = "" if one.default is None else f", default {one.default!r}"
        lines.append(f"  {one.name} ({one.type}{default})")
        lines.append(textwrap.fill(one.doc, 88, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines) + "\n"


def _fields(section: type, prefix: str = "") -> Iterator[Setting]:
    docs = _documented(section.__doc__ or "")
    for field in dataclasses.fields(section):
        if isinstance(field.type, type) and not dataclasses.is_dataclass(field.type):
            default = None if field.default is dataclasses.MISSING else field.default
            yield Setting(f"{prefix}{field.name}", field.type.__name__, default, docs[field.name])


def _documented(doc: str) -> dict[str, str]:
    """The `name: text` paragraphs of a docstring; lines that go on are indented."""
    found = re.findall(r"^(\w+): (.*(?:\n {2,}\S.*)*)", inspect.cleandoc(doc), re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}
