"""A model's chat template, rendered in another process, and cut between context and query."""

import atexit
import json
import os
import secrets
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.printable import printable
from star_jax.text.prompt import Prompt, common

SECONDS = 3  # of computing
_WAIT = 3 * SECONDS  # by the clock, as the process may be kept waiting
_PROGRAM = os.path.join(os.path.dirname(__file__), "render.py")


class Renderer:
    """The process that renders templates; started when it is needed, and again if it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.stop)

    def render(self, template: str, variables: list[dict[str, Any]]) -> list[str]:
        """The template's text with each of the variables.

        Raises:
          ValueError: the template fails, or takes too much time or memory.
        """
        request = json.dumps({"template": template, "variables": variables})
        with self._lock:
            line = self._ask(request)
        if not line:
            raise ValueError(
                f"the chat template is stopped: it takes more than {SECONDS} s, or too much memory"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(f"the chat template fails: {printable(answer['error'])}")
        return answer["texts"]

    def stop(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()  # waits, and closes the pipes

    def _ask(self, request: str) -> str:
        """The line that answers a request; empty if the process was ended over it."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(
                [sys.executable, "-P", _PROGRAM, str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # an interrupt is for us alone
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(_WAIT, process.kill)
        timer.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # an interrupt: an answer may still come, and nobody asks for it
            self.stop()
            raise
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self.stop()
            return ""
        return line


_renderer = Renderer()


def rendered(template: str | None, variables: list[dict[str, Any]]) -> list[str]:
    """The template's text with each of the variables; see `Renderer.render`.

    Raises:
      ValueError: there is no template, too.
    """
    if not template:
        raise ValueError("the tokenizer has no chat template")
    return _renderer.render(template, variables)


def cut(
    template: str | None,
    context: str,
    query: str,
    *,
    system: str | None,
    variables: dict[str, str],
    special: frozenset[str],
) -> tuple[Prompt, Prompt]:
    """A message of context and query in a template, cut between them; see `Tokenizer.chat`.

    variables: of the template, beside the messages. special: tokens that users may not write.
    """
    marker = f"[[cut{unused(context + query + (system or ''))}]]"
    marked, whole = rendered(
        template,
        [_given(context + between + query, system, variables) for between in (marker, "")],
    )
    if (count := marked.count(marker)) != 1:
        raise ValueError(
            f"the chat template shows a user's message {count} times: "
            "it cannot be cut into context and query"
        )
    before, after = marked.split(marker)
    # What templates take away is space around a message.
    end = len(before) - common(before[::-1], context[::-1])
    start = common(after, query)
    if (
        before + after != whole
        or len(before) - end < len(context.lstrip())
        or start < len(query.rstrip())
    ):
        raise ValueError(
            "the chat template changes a user's message: it cannot be cut into context and query"
        )
    head = _head(before[:end], system or "", special)
    return (
        Prompt((*head.parts, (before[end:], False))),
        Prompt(((after[:start], False), (after[start:], True))),
    )


def unused(text: str) -> str:
    """A number for marks that a text does not have. Nobody can guess it: one look is enough."""
    while (number := str(secrets.randbelow(10**18))) in text:
        pass
    return number


def given(messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a template is given, as `transformers` gives it."""
    fixed = {"tools": None, "documents": None, "add_generation_prompt": True}
    return {"messages": [dict(message) for message in messages], **fixed, **variables}


def _given(message: str, system: str | None, variables: dict[str, str]) -> dict[str, Any]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    return given([*messages, {"role": "user", "content": message}], variables)


def _head(text: str, system: str, special: frozenset[str]) -> Prompt:
    """What stands before a user's message: a template's text, but for the system message."""
    shown = system.strip()
    if not shown or any(shown in token for token in special - {shown}):
        return Prompt.template(text)  # a part of a special token spells none
    if text.count(shown) == 1:
        before, after = text.split(shown)
        return Prompt(((before, True), (shown, False), (after, True)))
    if any(folded(token) in folded(system) for token in special):
        raise ValueError(
            "the system message spells special tokens, and cannot be told from the chat "
            "template: leave them out"
        )
    return Prompt.template(text)


def folded(text: str) -> str:
    """What tokenizers may make of a text before they look for tokens in it."""
    return unicodedata.normalize("NFKC", text).casefold()
