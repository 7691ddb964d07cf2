"""Where answers end: against decoding everything and cutting afterwards, on random texts."""

import numpy as np
import pytest

from star_jax.stopping import Answer, Limits, Row, find

# Tokens are bytes, some of them parts of a character; 9 is a special token, without text.
PIECES = [b"a", b"b", b"ab", b"ba", b"bb", b"\xc3", b"\xa9", "né".encode(), b"", b"<s>"]
SPECIAL, EOS = 9, 8


def decode(ids, *, skip_special_tokens=False):
    kept = [i for i in ids if not (skip_special_tokens and i == SPECIAL)]
    return b"".join(PIECES[i] for i in kept).decode(errors="replace")


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


@pytest.mark.parametrize("stride", [1, 3, 32])
def test_the_text_is_that_of_decoding_everything_and_cutting_afterwards(stride: int) -> None:
    rng, reasons = np.random.default_rng(stride), []
    for _ in range(3000):
        tokens = rng.integers(0, 8, 12).tolist()
        if rng.random() < 0.3:
            tokens[rng.integers(0, 12)] = EOS
        stop = tuple(
            "".join(rng.choice(list("abbané"), rng.integers(1, 6)))
            for _ in range(rng.integers(0, 4))
        )
        most = int(rng.integers(6, 13))
        row = Row(Limits(most, stop, (EOS,)), decode)
        sent = grow(row, tokens, stride)
        answer = row.answer()

        everything = tokens[: tokens.index(EOS) if EOS in tokens else most][:most]
        text = decode(everything)
        assert answer.text == sent == whole(text, stop)
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
