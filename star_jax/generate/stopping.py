"""Where an answer ends: EOS, its length, or a stop word, wherever token borders lie."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from star_jax.text.prompt import common

StopReason = Literal["eos", "stop", "length", "cancelled"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated answer.

    tokens: without EOS; they end with the token that completed a stop word, if one did.
    text: the decoded tokens up to the stop word; None without a tokenizer.
    stop_reason: `eos`, `stop` (a stop word), `length` (max_new_tokens) or `cancelled`; None while
      the answer goes on.
    logprobs: of each of the tokens under the model, natural logarithm, before anything that
      `Sampling` does.
    seed: of its draws; None if it is greedy. Given to `Sampling`, it draws the answer again, with
      the same number of `samples` all of them.

    Answers that differ in log-probabilities and seed alone are equal.
    """

    tokens: list[int]
    text: str | None
    stop_reason: StopReason | None
    logprobs: list[float] = dataclasses.field(default_factory=list, compare=False)
    seed: int | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class Event:
    """What is new of one answer.

    index: which answer. tokens, logprobs, text: as in `Answer`, those that have come since the
    answer's last event; all events together are the answer. stop_reason: None while it goes on.
    """

    index: int
    tokens: list[int]
    text: str | None
    stop_reason: StopReason | None
    logprobs: list[float]


@dataclasses.dataclass(frozen=True)
class Limits:
    """When generation ends."""

    max_new_tokens: int
    stop: tuple[str, ...]
    eos: tuple[int, ...]  # empty: EOS is a token like any other


class Row:
    """The answer of one row, as it grows.

    Stop words are looked for in the text with special tokens, and what is left of it is shown
    without them. `probe` is a token that may change the text of those before it; see
    `Tokenizer.probe`. `seed` is the answer's.
    """

    def __init__(
        self,
        limits: Limits,
        decode: Callable[..., str] | None,
        probe: int | None = None,
        seed: int | None = None,
    ):
        self.limits = limits
        self.decode = decode
        self.probe = probe
        self.seed = seed
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stop_reason: StopReason | None = None
        self._checked = 0  # tokens up to which no stop word was completed
        self._told = 0  # tokens that `news` has told, and whether it has told the end
        self._told_text = ""
        self._told_end = False

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
            whole = self.decode(self.tokens)
            text = self._shown(self.decode, whole, find(whole, self.limits.stop))
        return Answer(self.tokens, text, self.stop_reason, self.logprobs, self.seed)

    def news(self, index: int) -> Event | None:
        """What has come since this was last called; None if nothing has.

        Tokens that may still be cut, and text that may still change, are held back.
        """
        ended = self.stop_reason is not None
        if self._told_end:
            return None
        settled = self._checked if self.limits.stop and self.decode and not ended else None
        tokens = self.tokens[self._told : settled]
        logprobs = self.logprobs[self._told : settled]
        self._told += len(tokens)
        text = None
        if self.decode is not None:
            whole, text = self.settled(), ""
            if len(whole) > len(self._told_text) and whole.startswith(self._told_text):
                text = whole[len(self._told_text) :]
                self._told_text = whole
        if not tokens and not text and ended == self._told_end:
            return None
        self._told_end = ended
        return Event(index, tokens, text, self.stop_reason, logprobs)

    def settled(self) -> str:
        """The text of the answer so far, without what a later token may still change or cut."""
        if self.decode is None:
            raise ValueError("text needs a tokenizer, and there is none")
        if self.stop_reason is not None:
            return self.answer().text or ""
        whole = self.decode(self.tokens)
        at = _undecided(whole, self.limits.stop)
        probed = None if self.probe is None else [*self.tokens, self.probe]
        if probed is not None:
            at = min(at, common(whole, self.decode(probed)))
        # Bytes of a character may stand around a special token, and are one without it.
        text = self._shown(self.decode, whole, at).rstrip("\N{REPLACEMENT CHARACTER}")
        if probed is not None:
            text = text[: common(text, self.decode(probed, skip_special_tokens=True))]
        return text

    def _shown(self, decode: Callable[..., str], whole: str, end: int | None) -> str:
        """whole[:end] without special tokens; `whole` is the text of all tokens."""
        shown = decode(self.tokens, skip_special_tokens=True)
        if shown == whole or end is None:
            return shown[:end]
        for count in range(len(self.tokens), -1, -1):
            before = decode(self.tokens[:count])
            if len(before) <= end:
                break
        shown = decode(self.tokens[:count], skip_special_tokens=True)
        rest = self.tokens[count : count + 1]  # the token that is cut
        is_special = not decode(rest, skip_special_tokens=True)
        return shown if is_special else shown + whole[len(before) : end]

    def _stop_at_word(self, decode: Callable[..., str]) -> None:
        """Cuts the tokens after the one that completes the stop word that begins first."""
        stop, window = self.limits.stop, 4 * max(map(len, self.limits.stop)) + 4
        for count in range(self._checked + 1, len(self.tokens) + 1):
            # The last tokens are enough, since a character has four at most; all would take long.
            if find(decode(self.tokens[max(0, count - window) : count]), stop) is None:
                if self._checked == count - 1:
                    self._checked = count
                continue
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
