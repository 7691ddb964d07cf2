"""Where an answer ends: EOS, its length, or a stop word, wherever token borders lie."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

StopReason = Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated answer.

    tokens: without EOS; they end with the token that completed a stop word, if one did.
    text: the decoded tokens up to the stop word; None without a tokenizer.
    stop_reason: `eos`, `stop` (a stop word), or `length` (max_new_tokens).
    logprobs: of each of the tokens under the model, natural logarithm, before anything that
      `Sampling` does. Answers that differ in these alone are equal.
    """

    tokens: list[int]
    text: str | None
    stop_reason: StopReason
    logprobs: list[float] = dataclasses.field(default_factory=list, compare=False)


@dataclasses.dataclass(frozen=True)
class Limits:
    """When generation ends."""

    max_new_tokens: int
    stop: tuple[str, ...]
    eos: tuple[int, ...]  # empty: EOS is a token like any other


class Row:
    """The answer of one row, as it grows."""

    def __init__(self, limits: Limits, decode: Callable[..., str] | None):
        self.limits = limits
        self.decode = decode
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stop_reason: StopReason | None = None
        self._checked = 0  # tokens that are known to complete no stop word, or not yet the first

    def extend(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Adds generated tokens, as far as the answer goes."""
        for token, logprob in zip(tokens, logprobs, strict=True):
            if self.stop_reason is not None:
                break
            if token in self.limits.eos:
                self.stop_reason = "eos"
            else:
                self.tokens.append(token)
                self.logprobs.append(logprob)
                if len(self.tokens) == self.limits.max_new_tokens:
                    self.stop_reason = "length"
        if self.decode is not None and self.limits.stop:
            self._stop_at_word(self.decode)

    def answer(self) -> Answer:
        """The answer so far."""
        text = None
        if self.decode is not None:
            # A stop word that is a special token is not in this text; its token is the last.
            text = self.decode(self.tokens, skip_special_tokens=True)
            text = text[: find(text, self.limits.stop)]
        return Answer(self.tokens, text, self.stop_reason or "length", self.logprobs)

    def settled(self) -> str:
        """The text of the answer so far, without what a later token may still change or cut."""
        if self.decode is None:
            raise ValueError("text needs a tokenizer, and there is none")
        if self.stop_reason is not None:
            return self.answer().text or ""
        text = self.decode(self.tokens, skip_special_tokens=True)
        return text[: _undecided(text, self.limits.stop)]

    def _stop_at_word(self, decode: Callable[..., str]) -> None:
        """Cuts the tokens after the one that completes the stop word that begins first."""
        stop = self.limits.stop
        if find(decode(self.tokens), stop) is None:
            self._checked = len(self.tokens)
            return
        for count in range(self._checked + 1, len(self.tokens) + 1):
            text = decode(self.tokens[:count])
            at = find(text, stop)
            is_last = count == len(self.tokens) and self.stop_reason is not None
            if at is None or (_undecided(text, stop) < at and not is_last):
                continue  # another stop word may have begun before it, and be completed later
            while count > 1 and find(decode(self.tokens[: count - 1]), stop) == at:
                count -= 1
            del self.tokens[count:], self.logprobs[count:]
            self.stop_reason = "stop"
            return


def find(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop words begins; None if the text has none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=None)


def _undecided(text: str, stop: Sequence[str]) -> int:
    """Where the first stop word begins that is there, or may be there when the text goes on.

    A character at the end of which bytes are missing may still become any.
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    longest = max(map(len, stop), default=0)
    for at in range(max(0, len(text) - longest + 1), len(text)):
        if any(word.startswith(text[at:]) for word in stop):
            break
    else:
        at = len(text)
    whole = find(text, stop)
    return at if whole is None else min(at, whole)
