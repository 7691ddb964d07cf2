"""Where answers end: against decoding everything and cutting afterwards, on random texts."""

import itertools

import numpy as np
import pytest

from star_jax.generate.stopping import Answer, Limits, Row, find

# Tokens are bytes, some of them parts of a character; one is a special token.
PIECES = [b"a", b"b", b"ab", b"ba", b"bb", b"\xc3", b"\xa9", "né".encode(), b"", b"<s>"]
SPECIAL, EOS = 9, 8


def decode(ids, *, skip_special_tokens=False):
    """As byte-level tokenizers do: what is not a character is marked, the rest is left alone."""
    kept = [i for i in ids if not (skip_special_tokens and i == SPECIAL)]
    return b"".join(PIECES[i] for i in kept).decode(errors="replace")


PROBE = 10  # a byte token that no character has
FALLBACK = [*"ab", "ab", "ba", "n", b"\xc3", b"\xa9", b"\xa1", "", "<s>", b"\xff"]


def decode_fallback(ids, *, skip_special_tokens=False):
    """As SentencePiece's do: of a run of byte tokens, all are marked if one is no character."""
    kept = [i for i in ids if not (skip_special_tokens and i == SPECIAL)]
    text = ""
    for is_bytes, run in itertools.groupby(kept, lambda i: isinstance(FALLBACK[i], bytes)):
        pieces = [FALLBACK[i] for i in run]
        if not is_bytes:
            text += "".join(pieces)
            continue
        try:
            text += b"".join(pieces).decode()
        except UnicodeDecodeError:
            text += "\N{REPLACEMENT CHARACTER}" * len(pieces)
    return text


def whole(text: str, stop: tuple[str, ...]) -> str:
    """All of the text, cut before the stop word that begins first."""
    return text[: min((text.index(word) for word in stop if word in text), default=None)]


def grow(row: Row, tokens: list[int], stride: int) -> str:
    """Extends a row by strides; what a stream of it would have sent by the end."""
    sent = ""
    for i in range(0, len(tokens), stride):
        if row.stop_reason is not None:
            break
        part = tokens[i : i + stride]
        row.extend(part, [-float(t) for t in part])
        text = row.settled()
        if text.startswith(sent):
            sent = text
    return sent + row.settled()[len(sent) :]


def sample(rng) -> tuple[list[int], tuple[str, ...], int]:
    """Tokens, with specials and EOS now and then; stop words; the most tokens."""
    tokens = rng.integers(0, 8, 12).tolist()
    for token, share in ((EOS, 0.3), (SPECIAL, 0.3)):
        if rng.random() < share:
            tokens[rng.integers(0, 12)] = token
    letters = [*"abbané", "<s>"]
    stop = tuple(
        "".join(rng.choice(letters, rng.integers(1, 6))) for _ in range(rng.integers(0, 4))
    )
    return tokens, stop, int(rng.integers(6, 13))


@pytest.mark.parametrize("stride", [1, 3, 32])
def test_the_text_is_that_of_decoding_everything_and_cutting_afterwards(stride: int) -> None:
    """Where special tokens are seen; they are left out of what is shown."""
    rng, reasons = np.random.default_rng(stride), []
    for _ in range(3000):
        tokens, stop, most = sample(rng)
        row = Row(Limits(most, stop, (EOS,)), decode)
        sent = grow(row, tokens, stride)
        answer = row.answer()

        everything = tokens[: tokens.index(EOS) if EOS in tokens else most][:most]
        text = decode(everything)
        cut = whole(text, stop)
        # Not where a stop word cuts the name of a special token, or that a character in two.
        if not cut.endswith(("<", "<s")) and not (SPECIAL in everything and "\ufffd" in text):
            assert answer.text == sent == cut.replace("<s>", "")
        if not stop:
            assert answer.text == sent == decode(everything, skip_special_tokens=True)
        if find(text, stop) is None:
            assert answer.tokens == everything
            assert answer.stop_reason == ("eos" if len(everything) < most else "length")
        else:
            at = find(text, stop)
            assert answer.stop_reason == "stop"
            assert find(decode(answer.tokens), stop) == at
            assert find(decode(answer.tokens[:-1]), stop) != at  # it ends with what completed it
            assert answer.tokens == everything[: len(answer.tokens)]
        assert answer.logprobs == [-float(t) for t in answer.tokens]
        reasons.append(answer.stop_reason)
    assert all(reasons.count(reason) > 100 for reason in ("eos", "length", "stop"))


@pytest.mark.parametrize(
    "stride", [3, *(pytest.param(stride, marks=pytest.mark.long) for stride in (4, 32))]
)
def test_a_decoder_that_takes_text_back_changes_neither_answers_nor_streams(stride: int) -> None:
    """The same answer at every stride, its stream included; and without a stop word, all text."""
    rng, taken_back = np.random.default_rng(stride), 0
    for _ in range(3000):
        tokens, stop, most = sample(rng)
        rows = [Row(Limits(most, stop, (EOS,)), decode_fallback, PROBE) for _ in range(2)]
        sent = [grow(row, tokens, n) for row, n in zip(rows, (stride, 1), strict=True)]
        assert rows[0].answer() == rows[1].answer()
        if not stop or SPECIAL not in tokens:  # a stop word may be cut out of a character's bytes
            assert sent[0] == sent[1] == rows[0].answer().text
        if rows[0].stop_reason != "stop":
            everything = tokens[: tokens.index(EOS) if EOS in tokens else most][:most]
            assert rows[0].answer().text == decode_fallback(everything, skip_special_tokens=True)
            parts = [decode_fallback(everything[:n]) for n in range(len(everything))]
            taken_back += any(
                not decode_fallback(everything).startswith(part.rstrip("\N{REPLACEMENT CHARACTER}"))
                for part in parts
            )
    assert taken_back > 50  # otherwise this test says little


def test_a_longer_stop_word_that_began_earlier_wins() -> None:
    row = Row(Limits(9, ("abb", "b"), ()), decode)
    row.extend([0, 1], [0.0, 0.0])  # "ab": is it the beginning of "abb"?
    assert (row.stop_reason, row.settled()) == (None, "")
    row.extend([1], [0.0])
    assert row.answer() == Answer([0, 1, 1], "", "stop")
    row = Row(Limits(9, ("abb", "b"), ()), decode)
    row.extend([0, 1], [0.0, 0.0])
    row.extend([0, 1], [0.0, 0.0])  # it was not: "b" it is
    assert row.answer() == Answer([0, 1], "a", "stop")


@pytest.mark.parametrize(
    ("stop", "tokens", "text", "reason"),
    [
        ("b<s>", [0, 1, 9], "a", "stop"),  # spans it
        ("ab", [0, 9, 1, 0], "aba", "length"),  # there is a token between
        ("<s>a", [9, 1, 9, 0], "b", "stop"),
        ("s", [0, 9, 1], "a", "stop"),  # within its name
    ],
)
def test_stop_words_see_special_tokens(stop, tokens, text, reason) -> None:
    row = Row(Limits(4, (stop,), ()), decode)
    row.extend(tokens, [0.0] * len(tokens))
    assert (row.answer().text, row.answer().stop_reason) == (text, reason)
    assert row.settled() == text


def test_a_special_token_may_stop_and_has_no_text() -> None:
    row = Row(Limits(9, ("<s>",), ()), decode)
    row.extend([0, 1, 9, 1], [-1.0, -2.0, -3.0, -4.0])
    assert row.answer() == Answer([0, 1, 9], "ab", "stop")
    assert row.answer().logprobs == [-1.0, -2.0, -3.0]


def test_a_stream_holds_back_what_may_still_change() -> None:
    row = Row(Limits(9, ("bab",), ()), decode)
    row.extend([0, 3], [0.0, 0.0])
    assert row.settled() == "a"  # "ba" may become "bab"
    row.extend([0], [0.0])
    assert row.settled() == "abaa"
    row.extend([5], [0.0])
    assert row.settled() == "abaa"  # half a character
    row.extend([6], [0.0])
    assert row.settled() == "abaaé"


def test_text_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a tokenizer"):
        Row(Limits(1, (), ()), None).settled()
