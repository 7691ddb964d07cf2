"""A session at the prompt: questions, answers as they come, and commands."""

import inspect
import os
import sys
import time
from collections.abc import Callable

from star_jax.cache.context import Context
from star_jax.chat import documents
from star_jax.chat.dialogue import Dialogue
from star_jax.chat.keyboard import Keyboard, Stop
from star_jax.interrupts import Interrupt
from star_jax.prefill.steps import Prefilling
from star_jax.printable import printable
from star_jax.runs import cli, timing
from star_jax.runs.progress import Progress
from star_jax.runs.terminal import say

_BAR = 20  # characters
LEAVING = "/quit or Ctrl-D leaves"


class Stopped(Exception):
    """Ctrl-C, where nothing was to be kept."""


class Session:
    """Questions and commands about one document. What is said goes to stderr, answers to stdout."""

    def __init__(self, dialogue: Dialogue):
        self.dialogue = dialogue
        self._stop = Stop()
        self._commands: dict[str, Callable[[str], None]] = {
            "save": self._save,
            "context": self._context,
            "stats": self._stats,
            "forget": self._forget,
            "help": self._help,
        }

    def run(self, keyboard: Keyboard) -> None:
        """Reads lines and does what they say, until /quit or the end.

        Ctrl-C stops what is done, or drops the line, and never ends the session.
        """
        say("Ask about the document. /help lists the commands.")
        with self._stop.catching():
            while self._goes_on(keyboard):
                pass

    def ask(self, question: str) -> None:
        """Prints the answer as it comes; where it is stopped, it stays as far as it has come."""
        for piece in self.dialogue.answer(question, stopped=lambda: self._stop.is_asked):
            with cli.printing():
                sys.stdout.write("\n".join(map(printable, piece.split("\n"))))
        with cli.printing():
            print()
        if self.dialogue.reason is None:
            say("stopped; what was said so far is remembered")
        elif self.dialogue.reason == "length":
            say("the answer is cut: it has generation.max_new_tokens")

    def _goes_on(self, keyboard: Keyboard) -> bool:
        """Does what the next line says; whether there may be another one."""
        try:
            self._stop.listen()
            line = keyboard.line()
            self._stop.begin()
        except Interrupt:  # SIGTERM, say
            raise
        except KeyboardInterrupt:
            self._stop.is_deaf = True  # an editor's Ctrl-C does not say so
            if not keyboard.typed.strip():
                say(LEAVING)
            return True
        if line is None or line.strip() == "/quit":
            return False
        try:
            self._obey(line)
        except (ValueError, NotImplementedError, OSError) as e:
            say(f"error: {' '.join(str(e).split())}")
        except Interrupt:
            raise
        except (Stopped, KeyboardInterrupt):  # a second Ctrl-C
            say("", "stopped: document and dialogue are as they were")
        return True

    def _obey(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self.ask(line.strip())
            return
        name, _, argument = line[1:].strip().partition(" ")
        if name not in self._commands:
            raise ValueError(f"there is no /{name}; /help lists the commands")
        self._commands[name](argument.strip())

    def _save(self, path: str) -> None:
        """/save PATH: writes document and dialogue; --context=PATH goes on from there"""
        if not path:
            raise ValueError("/save PATH: name a directory")
        self.dialogue.save(path)
        say(f"saved in {path}")

    def _context(self, path: str) -> None:
        """/context FILE: puts more text behind the document; the dialogue goes on"""
        if not path or path == documents.STDIN:
            raise ValueError("/context FILE: name a file")
        if os.path.isdir(path):
            raise ValueError(f"{path} is a directory; a saved dialogue is --context={path}")
        text = documents.read(os.path.expanduser(path))
        self.dialogue.extend(
            text, lambda steps, before: watch(steps, before, lambda: self._stop.is_asked)
        )
        say(f"the document has {len(self.dialogue.document.tokens[0])} tokens")

    def _forget(self, argument: str) -> None:
        """/forget: drops all questions and answers, and keeps the document"""
        _no_argument(argument)
        self.dialogue.forget()
        say("the dialogue is forgotten")

    def _stats(self, argument: str) -> None:
        """/stats: tokens, memory, and times"""
        _no_argument(argument)
        say(*stats(self.dialogue))

    def _help(self, argument: str) -> None:
        """/help: this"""
        _no_argument(argument)
        docs = [inspect.getdoc(command) or "" for command in self._commands.values()]
        for usage, _, what in (doc.partition(": ") for doc in [*docs, f"/quit: {_QUIT}"]):
            say(f"{usage:<14} {what}")
        say("Ctrl-C stops an answer. All other lines are questions; one that begins with a slash")
        say("has a space before it.")


_QUIT = "leaves, like Ctrl-D; what was not saved is gone"


def watch(
    prefilling: Prefilling[Context], before: int, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Runs phase 1 with a bar; raises Stopped between two steps, if that is asked for."""
    most = prefilling.tokens - before
    begin = time.perf_counter() - timing.compiled()
    with Progress(most) as progress:
        progress.begin(f"encoding {most} tokens")
        last = 0
        for done in prefilling:
            if stopped():
                raise Stopped
            new = max(0, done - before)  # a step may encode anew what was there
            rate = new / max(1e-9, time.perf_counter() - timing.compiled() - begin)
            bar = "#" * (_BAR * new // most)
            text = f"[{bar:<{_BAR}}] {new}/{most} tokens, {rate:.0f} tokens/s"
            if new > last:
                progress.advance(new - last, text)
            last = new


def stats(dialogue: Dialogue) -> list[str]:
    """What there is to know of a dialogue, line by line."""
    spent, engine = dialogue.spent, dialogue.engine
    document, all_of_it = len(dialogue.document.tokens[0]), len(dialogue.context.tokens[0])
    encoding = "not here: it was loaded"
    if spent.encoded:
        rate = spent.encoded / max(1e-9, spent.encoding)
        encoding = f"{spent.encoded} tokens in {spent.encoding:.2f} s, {rate:.0f} tokens/s"
    answers = "none"
    if spent.answers:
        each = spent.rest / max(1, spent.tokens - spent.answers)
        answers = (
            f"{spent.answers}, {spent.tokens} tokens; to the first token "
            f"{spent.first / spent.answers:.3f} s, then {each:.4f} s a token"
        )
    return [
        f"document   {document} tokens, encoded by {dialogue.document.fingerprint.attention}",
        f"dialogue   {all_of_it - document} tokens, {dialogue.form.name}",
        f"positions  {all_of_it} of the model's {engine.config.max_position_embeddings}",
        f"cache      {dialogue.bytes_per_device} bytes "
        f"({dialogue.bytes_per_device / 2**20:.1f} MiB) on each device of {engine.mesh.size}",
        f"encoding   {encoding}",
        f"answers    {answers}",
        f"compiling  {timing.compiled():.1f} s, which is in none of these",
    ]


def _no_argument(argument: str) -> None:
    if argument:
        raise ValueError(f"unexpected {argument!r}: the command stands alone")
