"""`python -m star_jax.chat` as a person uses it: in a terminal, with questions, with bad input."""

import os
import pathlib
import re
import signal
import sys
import warnings
from typing import Any

import command_folder
import commands
import pexpect
import pytest
import test_dialogue
from further import further

import star_jax
from star_jax.chat.keyboard import Stop
from star_jax.engine import Engine

CONFIG = """
from star_jax.eval import config

def get_config():
    return config.EvalConfig(
        model=config.ModelConfig(path="checkpoint", dtype="float32"),
        attention=config.AttentionConfig(kind="star", block_size="64", anchor_size="b"),
        mesh=config.MeshConfig(context=2, cpu_devices=2),
        data=config.DataConfig(),
        generation=config.GenerationConfig(max_new_tokens=600, ignore_eos=True),
        output_dir="",
        compile_cache_dir="programs",
    )
"""
DOCUMENT, MORE = "the grass is green. the sky is blue. " * 6, "it is the end. " * 9
PROMPT = re.escape("\x1b[?2004h")  # the line editor is ready
FIRST, SECOND, THIRD = "is the grass blue?", "and what is it?", "is it the end?"


@pytest.fixture(name="here", scope="module")
def _here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = command_folder.fill(tmp_path_factory.mktemp("chat"))
    (folder / "checkpoint" / "chat_template.jinja").write_text(test_dialogue.DEFAULT_SYSTEM)
    (folder / "config.py").write_text(CONFIG)
    (folder / "book.txt").write_text(DOCUMENT)
    (folder / "more.md").write_text(MORE)
    return folder


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, here: pathlib.Path, *argv: str):
        arguments = ["-m", "star_jax.chat", "--config=config.py", *argv]
        environment = {
            "PYTHONPATH": commands.AS_USERS,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # pexpect does not answer where the cursor is
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that JAX has threads: what is forked runs Python anew
            self.child = pexpect.spawn(
                sys.executable,
                arguments,
                cwd=here,
                env=os.environ | environment,
                dimensions=(40, 160),
                encoding="utf-8",
                timeout=120,
            )

    def sees(self, what: str) -> str:
        """Waits for a pattern; returns what came before it."""
        self.child.expect(what)
        return self.child.before

    def types(self, line: str) -> None:
        self.sees(PROMPT)
        self.child.send(f"{line}\r")
        self.sees(re.escape(line))  # the echo

    def stops_an_answer(self, question: str) -> None:
        self.types(question)
        self.sees(r"\x1b\[\?2004l.*?[^\r\n]{8}")  # the editor has ended, and some of the answer
        self.child.sendintr()
        self.sees("stopped; what was said so far is remembered")

    def stats(self) -> tuple[int, int]:
        """Tokens of the document, and of the dialogue."""
        self.types("/stats")
        self.sees("document +([0-9]+) tokens, encoded by Star.block_size=64, anchor_size=64")
        document = int(self.child.match[1])
        self.sees("dialogue +([0-9]+) tokens, in the model's chat template")
        dialogue = int(self.child.match[1])
        self.sees("compiling")
        return document, dialogue

    def ends(self) -> None:
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert (self.child.exitstatus, self.child.signalstatus) == (0, None)


@pytest.fixture(name="engine", scope="module")
def _engine(here: pathlib.Path) -> Engine:
    return Engine.from_pretrained(
        here / "checkpoint",
        mesh=star_jax.make_mesh(context=1),
        attention=star_jax.Star(block_size=64),
        dtype="float32",
    )


def saved(engine: Engine, path: pathlib.Path) -> tuple[list[int], int]:
    """The tokens of a saved context, and how many are the document's."""
    context: Any = engine.load_context(path)
    return context.tokens[0], context.groups[0].encoded[0]


@pytest.mark.parametrize("cache", ["model", *further("int8")])
def test_a_person_asks_stops_saves_and_comes_back(
    cache: str, here: pathlib.Path, engine: Engine
) -> None:
    tokenizer = engine.tokenizer
    person = Terminal(here, "--context=book.txt", f"--config.cache.dtype={cache}")
    person.sees(r"100% \[#{20}\] ([0-9]+)/\1 tokens, [0-9]+ tokens/s  ETA 0s")
    person.sees("Ask about the document. /help lists the commands.")
    person.types(FIRST)
    person.sees("the answer is cut: it has generation.max_new_tokens")
    person.types(SECOND)
    person.sees("the answer is cut")
    _, before = person.stats()
    person.stops_an_answer(THIRD)
    document, dialogue = person.stats()
    assert before < dialogue < before + 600
    person.types("/save kept")
    person.sees("saved in kept")
    person.types("/quit")
    person.ends()

    # What was saved is the template's text, with the turns one after the other.
    ids, encoded = saved(engine, here / "kept")
    assert (encoded, len(ids)) == (document, document + dialogue)
    shown = tokenizer.decode(ids)
    header, end = "<|user|>user\n", "</s>\n<|user|>assistant\n"
    heads = [f"{header}{DOCUMENT.strip()}\n{FIRST}{end}", f"{end[:5]}{header}{SECOND}{end}"]
    places = [shown.index(head) for head in [*heads, f"{end[:5]}{header}{THIRD}{end}"]]
    assert places == sorted(places)

    person = Terminal(here, "--context=kept")
    person.sees(f"loaded {document} tokens, and {dialogue} of a dialogue")
    person.stops_an_answer(SECOND)
    assert person.stats()[1] > dialogue
    person.types("/context more.md")
    person.sees(r"the document has ([0-9]+) tokens")
    longer = int(person.child.match[1])
    assert longer > document
    person.stops_an_answer(THIRD)
    person.types("/save longer")
    person.sees("saved in longer")
    person.types("/forget")
    person.sees("the dialogue is forgotten")
    assert person.stats() == (longer, 0)
    person.types("/nope")
    person.sees("error: there is no /nope; /help lists the commands")
    person.sees(PROMPT)
    person.child.sendintr()
    person.sees("/quit or Ctrl-D leaves")
    person.sees(PROMPT)
    person.child.sendeof()
    person.ends()

    kept_in = engine.load_context(here / "longer").fingerprint.cache
    assert kept_in == (None if cache == "model" else cache)
    after, encoded = saved(engine, here / "longer")
    text = tokenizer.decode(after[:encoded])
    assert encoded == longer and text.endswith(f"{header}{DOCUMENT.strip()}\n{MORE.strip()}\n")
    assert after[:document] == ids[:document]  # but for what the document has more,
    assert after[longer : longer + dialogue] == ids[document:]  # the dialogue is as it was


def test_a_signal_at_the_prompt_ends_it_in_one_line(here: pathlib.Path) -> None:
    person = Terminal(here, "--context=book.txt")
    person.sees("Ask about the document.")
    person.sees(PROMPT)
    person.child.kill(signal.SIGTERM)
    person.sees("interrupted by SIGTERM; what was not saved is gone\r\n")
    person.child.expect(pexpect.EOF)
    person.child.close()
    assert person.child.exitstatus == 1


def test_questions_are_answered_without_a_prompt(here: pathlib.Path) -> None:
    """Answers go to stdout, and nothing else does."""
    result = commands.run(
        here,
        "star_jax.chat",
        "--config=config.py",
        "--config.generation.max_new_tokens=4",
        "--context=book.txt",
        f"--question={FIRST}",
        f"--question={SECOND}",
        "--system=be brief",
    )
    assert result.code == 0, result.stderr
    assert f"> {FIRST}" in result.stderr and f"> {SECOND}" in result.stderr
    assert "tokens/s" in result.stderr and "tokens/s" not in result.stdout
    assert result.stdout.endswith("\n") and FIRST not in result.stdout


BAD = [
    ([], "error: missing --context"),
    (["--context="], "error: --context is empty"),
    (["--context=none.txt"], "none.txt"),
    (["--context=checkpoint"], "--context=checkpoint is a directory, and no dialogue was saved"),
    (["--context=config.py", "--question="], "error: --question is empty"),
    (["--context=empty.txt"], "empty.txt is empty"),
    (["--context=-"], "--context=- reads the standard input, and there is no terminal"),
    (["--context=book.txt", "--nope=3"], "nope"),
    (["--context=book.txt", "--config=none.py"], "--config=none.py: there is no such file"),
    (["--context=book.txt", "--config.model.path=none"], "none"),
    (["--context=book.txt", "--config.model.path="], "model.path is empty"),
    (["--context=book.txt", "--config.attention.kind=star,ring"], "star_b64_a64, ring), and a"),
    (["--context=book.txt", "--config.attention.kind=streaming"], "is to compare with: use star"),
    (["--context=book.txt", "--config.attention.block_size=L/0"], "attention.block_size='L/0'"),
    (["--context=book.txt", "--config.mesh.context=3"], "--config.mesh.context=3"),
    (["--context=book.txt", "--config.mesh.coordinator=a:1"], "a dialogue runs in one process"),
    (["--context=book.txt", "--config.generation.temperature=-1"], "generation.temperature=-1"),
    (["--context=book.txt", "--config.generation.max_new_tokens=1000000"], "16 times the 4096"),
]


@pytest.mark.parametrize(("argv", "says"), BAD)
def test_bad_input_is_one_line(here: pathlib.Path, argv: list[str], says: str) -> None:
    (here / "empty.txt").touch()
    result = commands.run(here, "star_jax.chat", "--config=config.py", *argv)
    assert says in result.error
    assert "mesh:" not in result.stderr  # no model was loaded


def test_templates_that_do_not_serve_are_refused_before_the_model_is_loaded(
    tmp_path: pathlib.Path,
) -> None:
    here = command_folder.fill(tmp_path)
    (here / "config.py").write_text(CONFIG)
    (here / "book.txt").write_text(DOCUMENT)
    arguments = ["--config=config.py", "--context=book.txt"]
    result = commands.run(here, "star_jax.chat", *arguments, "--system=be brief")
    assert "--system needs a chat template, and the model has none" in result.error
    for template, says in [
        ("{{ messages[-1].content }}", "message 1, the user's: the chat template drops it"),
        ("{{ messages[0].content | upper }}", "shows a user's message 0 times"),
        ("{% if messages | length > 1 %}{{ raise_exception('one!') }}{% endif %}x"
         "{{ messages[0].content }}", "the chat template fails: one!"),
    ]:  # fmt: skip
        (here / "checkpoint" / "chat_template.jinja").write_text(template)
        assert says in commands.run(here, "star_jax.chat", *arguments).error


def test_a_third_interrupt_is_not_heard_until_the_next_line() -> None:
    stop = Stop()
    stop.begin()
    stop._take(2, None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stop._take(2, None)
        for _ in range(3):  # while it is said that all is stopped
            stop._take(2, None)
        stop.listen()
