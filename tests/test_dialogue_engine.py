"""Dialogues about a document: what is encoded of them equals all of it encoded at once."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import test_dialogue
import tiny
import tokenizer_files

import star_jax
from star_jax.chat.dialogue import Dialogue
from star_jax.chat.forms import Form, InTemplate, Plain
from star_jax.chat.session import Session, Stopped, stats, watch
from star_jax.engine import Engine
from star_jax.runs.drawing import GenerationConfig
from star_jax.text.tokenizer import Tokenizer

TOLERANCE = 2e-4
DOCUMENT = "The sky is blue. " * 6 + "The end."
MORE = "The grass is green. " * 3
QUESTIONS = ("What is blue?", "And what is green?", "Is it?")
BLOCK = 16


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer_files.save(directory, "byte-level", add_bos_token=True)
    (directory / "chat_template.jinja").write_text(test_dialogue.DEFAULT_SYSTEM)
    found = Tokenizer.from_pretrained(directory)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    return Engine(
        tiny.model(vocab_size=320, eos_token_id=2, num_hidden_layers=1),
        mesh=star_jax.make_mesh(context=1),
        attention=star_jax.Star(block_size=BLOCK),
        tokenizer=tokenizer,
    )


def begun(engine: Engine, form: Form, **generation: Any) -> Dialogue:
    return Dialogue.about(
        engine,
        form.document(DOCUMENT),
        form=form,
        generation=GenerationConfig(**{"max_new_tokens": 12, **generation}),
        watch=watch,
    )


def logits(engine: Engine, context: Any) -> np.ndarray:
    return engine.score(context, [5, 7, 9])


def check_encoded_at_once(dialogue: Dialogue, document: list[int]) -> None:
    """The context is of the document, star-encoded, and of all turns as one question to it."""
    engine, whole = dialogue.engine, dialogue.context.tokens[0]
    assert whole[: len(document)] == document
    fresh, turns = engine.prefill(document), whole[len(document) :]
    expected = engine.score(fresh, [*turns, 5, 7, 9])[len(turns) :]
    assert tiny.difference(logits(engine, dialogue.context), expected) < TOLERANCE


def test_forms_make_ids_of_documents_and_questions(tokenizer: Tokenizer) -> None:
    for system in (None, "Be brief."):
        form = InTemplate(tokenizer, system)
        said = [{"role": "user", "content": f"{DOCUMENT}\n{QUESTIONS[0]}"}]
        ids = form.document(DOCUMENT) + form.first(QUESTIONS[0])
        assert ids == tokenizer.encode_context(tokenizer.dialogue(said, system=system))
        said += [{"role": "assistant", "content": "b"}, {"role": "user", "content": QUESTIONS[1]}]
        ids += tokenizer.encode_query("b") + form.next(QUESTIONS[1])
        assert ids == tokenizer.encode_context(tokenizer.dialogue(said, system=system))
        assert form.fits(ids) and InTemplate(tokenizer).fits(ids)
        assert form.document(f"{DOCUMENT}\n{MORE}") == form.document(DOCUMENT) + form.more(MORE)
    plain = Plain(tokenizer)
    ids = plain.document(DOCUMENT) + plain.more(MORE) + plain.first(QUESTIONS[0])
    ids += tokenizer.encode_query("b") + plain.next(QUESTIONS[1])
    text = f"{DOCUMENT}\n{MORE}\n{QUESTIONS[0]}\nb\n{QUESTIONS[1]}\n"
    assert tokenizer.decode(ids) == f"<s>{text}"
    assert not form.fits(ids)


def test_each_turn_encodes_only_itself(engine: Engine, tokenizer: Tokenizer) -> None:
    form = InTemplate(tokenizer)
    dialogue = begun(engine, form)
    document = form.document(DOCUMENT)
    expected = list(document)
    for i, question in enumerate(QUESTIONS[:2]):
        ids = (form.next if i else form.first)(question)
        told = expected[len(document) :] + ids
        plain = engine.generate(engine.prefill(document), told, max_new_tokens=12)
        text = "".join(dialogue.answer(question))
        assert text == plain.text and dialogue.reason == plain.stop_reason
        expected += ids + plain.tokens
        assert dialogue.context.tokens == [expected]
        # Phase 1 ran for the document alone.
        assert dialogue.context.groups[0].encoded == [len(document)]
    check_encoded_at_once(dialogue, document)
    dialogue.forget()
    assert dialogue.context.tokens == [document] and not dialogue.turns


@pytest.mark.long
def test_a_longer_document_keeps_the_dialogue(
    engine: Engine, tokenizer: Tokenizer, tmp_path: pathlib.Path
) -> None:
    form = InTemplate(tokenizer)
    dialogue = begun(engine, form)
    "".join(dialogue.answer(QUESTIONS[0]))
    turns = dialogue.turns
    dialogue.extend(MORE.strip(), watch)
    document = form.document(DOCUMENT) + form.more(MORE.strip())
    assert document == form.document(f"{DOCUMENT}\n{MORE.strip()}")
    assert dialogue.context.tokens == [document + turns] and dialogue.turns == turns
    assert dialogue.context.groups[0].encoded == [len(document)]
    check_encoded_at_once(dialogue, document)
    # Saved and loaded it is the same, and still knows where the document ends.
    dialogue.save(tmp_path / "kept")
    loaded: Any = engine.load_context(tmp_path / "kept")
    again = Dialogue(engine, loaded, form=form, generation=GenerationConfig(max_new_tokens=12))
    assert again.turns == turns and form.fits(loaded.tokens[0])
    assert list(again.answer(QUESTIONS[1])) == list(dialogue.answer(QUESTIONS[1]))
    assert again.context.tokens == dialogue.context.tokens
    again.forget()
    again.extend("Yes.", watch)
    check_encoded_at_once(again, document + form.more("Yes."))


def test_a_stopped_answer_is_kept_as_far_as_it_came(engine: Engine, tokenizer: Tokenizer) -> None:
    dialogue = begun(engine, InTemplate(tokenizer), max_new_tokens=124, ignore_eos=True)
    document = dialogue.context.tokens[0]
    pieces: list[str] = []
    for piece in dialogue.answer(QUESTIONS[0], stopped=lambda: len(pieces) >= 1):
        pieces.append(piece)
    ids = dialogue.form.first(QUESTIONS[0])
    told = dialogue.turns[len(ids) :]
    assert dialogue.turns[: len(ids)] == ids and 0 < len(told) < 12 and dialogue.reason is None
    whole = engine.generate(engine.prefill(document), ids, max_new_tokens=124, ignore_eos=True)
    assert told == whole.tokens[: len(told)]
    check_encoded_at_once(dialogue, document)
    # One that is broken off leaves nothing.
    before = dialogue.context
    answer: Any = dialogue.answer(QUESTIONS[1])
    next(answer)
    answer.close()
    assert dialogue.context is before


def test_stopped_encoding_leaves_the_document(engine: Engine, tokenizer: Tokenizer) -> None:
    dialogue = begun(engine, InTemplate(tokenizer))
    before = dialogue.context
    with pytest.raises(Stopped):
        dialogue.extend(MORE, lambda steps, encoded: watch(steps, encoded, lambda: True))
    assert dialogue.context is before is dialogue.document


def test_stats_say_what_is_held(engine: Engine, tokenizer: Tokenizer) -> None:
    dialogue = begun(engine, InTemplate(tokenizer), ignore_eos=True)
    "".join(dialogue.answer(QUESTIONS[0]))
    told = "\n".join(stats(dialogue))
    document, turns = len(dialogue.document.tokens[0]), len(dialogue.turns)
    assert f"document   {document} tokens, encoded by Star(block_size=16, anchor_size=16)" in told
    assert f"dialogue   {turns} tokens, in the model's chat template" in told
    assert f"positions  {document + turns} of the model's 4096" in told
    assert f"encoding   {document} tokens in " in told
    assert "answers    1, 12 tokens" in told
    # Keys and values of two heads of 16, in float32: for each token of the document
    # at least, and with the room that arrays have at most twice that of all.
    each = 2 * 2 * 16 * 4
    assert each * document <= dialogue.bytes_per_device < 2 * each * (document + turns + BLOCK)


def test_sampled_answers_are_drawn_anew_for_each_turn(engine: Engine, tokenizer: Tokenizer) -> None:
    """The same dialogue with the same seed says the same, and asking twice says two things."""
    how = {"temperature": 1.5, "seed": 3, "ignore_eos": True}
    first, second = (begun(engine, InTemplate(tokenizer), **how) for _ in range(2))
    said = ["".join(first.answer(QUESTIONS[0]))]
    assert ["".join(second.answer(QUESTIONS[0]))] == said
    first.forget()
    assert "".join(first.answer(QUESTIONS[0])) != said[0]


class Typed:
    """A keyboard for tests: lines, and Ctrl-C where a line is None."""

    typed = ""

    def __init__(self, *lines: str | None):
        self._lines: Iterator[str | None] = iter(lines)

    def line(self) -> str | None:
        try:
            line = next(self._lines)
        except StopIteration:
            return None
        if line is None:
            raise KeyboardInterrupt
        return line


def test_a_session_goes_on_after_errors(
    engine: Engine, tokenizer: Tokenizer, tmp_path: pathlib.Path, capsys: Any
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "\x1b[31m.txt").write_text("")
    lines = ["/nope", "/save", f"/save {tmp_path}/no/where", "/context", f"/context {tmp_path}"]
    lines += [f"/context {tmp_path}/bad.txt", f"/context {tmp_path}/\x1b[31m.txt", "/context -"]
    lines += ["/stats now", "", "   ", " /etc?"]
    session = Session(begun(engine, InTemplate(tokenizer)))
    session.run(Typed(*lines, None, "/help", "/quit", "/nope"))
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    says = ["no /nope", "name a directory", "not a directory", "name a file", "is a directory"]
    says += ["no text in UTF-8", "is empty", "name a file", "unexpected 'now'"]
    assert len(errors) == len(says)
    assert all(one in error for one, error in zip(says, errors, strict=True))
    assert "\x1b" not in out + err and "/quit or Ctrl-D leaves" in err
    assert session.dialogue.spent.answers == 1  # the question that begins with a space


def test_answers_are_shown_with_their_escape_codes_spelled(
    engine: Engine, tokenizer: Tokenizer, capsys: Any, monkeypatch: Any
) -> None:
    dialogue = begun(engine, InTemplate(tokenizer))
    monkeypatch.setattr(dialogue, "answer", lambda *_, **__: iter(["a\x1b[31m\n", "\x07b\r"]))
    Session(dialogue).ask("What?")
    assert capsys.readouterr().out == "a\\x1b[31m\n\\x07b \n"
