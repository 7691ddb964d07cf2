"""Answers in the form that OpenAI's API has, whole or piece by piece."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from star_jax.generate.stopping import Event
from star_jax.serve.jobs import Job

_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}
_PART = "\N{REPLACEMENT CHARACTER}"  # what decoders show for a part of a character
Json = dict[str, Any]


class Reply:
    """The reply to one completion, or to one chat; the choices come as events.

    decode: from tokens to text, for log-probabilities; None: they are not asked for.
    """

    def __init__(self, model: str, *, chat: bool, decode: Callable[[list[int]], str] | None):
        self._chat, self._decode = chat, decode
        kind = "chatcmpl" if chat else "cmpl"
        self._head = {
            "id": f"{kind}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, list[Json]] = {}
        self._ends: dict[int, str] = {}
        self._offsets: dict[int, _Offsets] = {}

    def add(self, index: int, event: Event) -> Json | None:
        """What is new of a choice: a chunk of a stream, or nothing that a client would see."""
        is_first = index not in self._texts
        text, end = event.text or "", event.stop_reason
        logprobs = self._told_logprobs(index, event)
        self._texts.setdefault(index, []).append(text)
        if logprobs is not None:
            self._logprobs.setdefault(index, []).append(logprobs)
        if end is not None:
            self._ends[index] = _REASONS.get(end, end)
        if not (text or end or is_first or (logprobs and event.tokens)):
            return None
        choice: Json = {"index": index, "logprobs": logprobs, "finish_reason": None}
        if end is not None:
            choice["finish_reason"] = self._ends[index]
        if self._chat:
            choice["delta"] = {"role": "assistant"} if is_first else {}
            choice["delta"]["content"] = text
        else:
            choice["text"] = text
        return self._body("chat.completion.chunk", [choice])

    def last(self, usage: Json) -> Json:
        """The chunk after all others, with the usage."""
        return self._body("chat.completion.chunk", []) | {"usage": usage}

    def whole(self, usage: Json) -> Json:
        """The reply of a request that does not stream."""
        choices = []
        for index in sorted(self._texts):
            text = "".join(self._texts[index])
            logprobs = _joined(self._logprobs.get(index))
            choice: Json = {"index": index, "logprobs": logprobs}
            choice["finish_reason"] = self._ends[index]
            if self._chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choices.append(choice)
        return self._body("chat.completion", choices) | {"usage": usage}

    def _body(self, kind: str, choices: list[Json]) -> Json:
        return {"object": kind if self._chat else "text_completion", **self._head} | {
            "choices": choices
        }

    def _told_logprobs(self, index: int, event: Event) -> Json | None:
        if self._decode is None:
            return None
        texts = [self._decode([token]) for token in event.tokens]
        if self._chat:
            content = [
                {"token": text, "logprob": value, "bytes": _bytes(text), "top_logprobs": []}
                for text, value in zip(texts, event.logprobs, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = self._offsets.setdefault(index, _Offsets(self._decode))
        return {
            "tokens": texts,
            "token_logprobs": list(event.logprobs),
            "top_logprobs": None,
            "text_offset": [offsets.add(token) for token in event.tokens],
        }


class _Offsets:
    """Where the tokens of an answer begin in its text, in characters.

    A token that has a part of a character begins where the character does.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._at = 0  # where the text of `_parts` begins
        self._parts: list[int] = []  # tokens whose last character is not whole

    def add(self, token: int) -> int:
        """The offset of the next token."""
        before = self._decode(self._parts) if self._parts else ""
        self._parts.append(token)
        text = self._decode(self._parts)
        if text.endswith(_PART) or not text.startswith(before):  # a part of the same character
            before = before.rstrip(_PART)
        begin = self._at + len(before)
        # Characters have four bytes at most: what is not whole by then, never will be.
        if not text.endswith(_PART) or len(self._parts) >= 4:
            self._at += len(text)
            self._parts = []
        return begin


def usage(jobs: Sequence[Job]) -> Json:
    """Tokens of a request: of its prompts, how many of them were there already, of its answers."""
    prompt = sum(len(job.ask.tokens) for job in jobs)
    made = sum(job.made for job in jobs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(job.cached for job in jobs)},
    }


def sent(data: Json | str) -> str:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def _bytes(text: str) -> list[int] | None:
    """The bytes of a token's text; None where it has a part of a character: they are not known."""
    return None if _PART in text else list(text.encode())


def _joined(parts: list[Json] | None) -> Json | None:
    """The log-probabilities of all pieces of a choice."""
    if parts is None:
        return None
    return {
        name: [one for part in parts for one in part[name]] if isinstance(value, list) else value
        for name, value in parts[0].items()
    }
