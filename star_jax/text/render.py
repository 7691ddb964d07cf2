"""Renders chat templates, as a process of its own: a template is a program that nobody trusts.

Reads requests and writes answers, a line of JSON each, until there are none. A request may take so
many seconds of computing as the command line says, and so much memory; more ends the process.
Imports nothing of this library, so that it starts at once.
"""

import datetime
import functools
import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

MEMORY = 2**30  # bytes, and 32 times the request
OUTPUT = 2**20  # characters, and four times the request


class Generation(jinja2.ext.Extension):
    """`{% generation %}`: marks what an assistant said, for training. It changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def raise_exception(message: str) -> None:
    """A template calls this to refuse messages."""
    raise jinja2.TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would take for tags."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def strftime_now(format: str) -> str:
    """The time, as templates with a date ask for it."""
    return datetime.datetime.now().strftime(format)


@functools.lru_cache(maxsize=8)
def compiled(template: str) -> jinja2.Template:
    """A template in the environment that `transformers` gives to them."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(template)


def render(template: str, variables: dict[str, Any], most: int) -> str:
    """The text, of at most so many characters."""
    made, length = [], 0
    for piece in compiled(template).generate(variables):
        made.append(piece)
        length += len(piece)
        if length > most:
            raise ValueError(f"it makes more than {most} characters")
    return "".join(made)


def answer(line: str) -> dict[str, Any]:
    """The texts of a request: one for each set of variables."""
    request = json.loads(line)
    most = OUTPUT + 4 * len(line)
    try:
        texts = [render(request["template"], given, most) for given in request["variables"]]
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as e:  # a template raises what it likes
        return {"error": str(e)[:1000] or type(e).__name__}
    return {"texts": texts}


def bound(kind: int, value: int) -> None:
    """Sets a limit, unless a lower one is set that cannot be raised."""
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def main(seconds: int) -> None:
    """Answers until standard input ends."""
    bound(resource.RLIMIT_CORE, 0)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
        bound(resource.RLIMIT_AS, MEMORY + 32 * len(line))
        print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
