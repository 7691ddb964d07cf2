"""From requests to what the scheduler is asked: prompts as tokens, and limits that hold."""

import dataclasses
import functools
from collections.abc import Sequence

from star_jax.engine import Engine
from star_jax.serve.errors import Problem, refused
from star_jax.serve.jobs import Ask
from star_jax.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Message,
    TokenizeRequest,
)

COMPLETION = 16  # tokens of a completion that sets no limit, as OpenAI has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads requests for one engine.

    positions: tokens of prompt and answer together. new_tokens: of one answer. samples: answers to
    one prompt. All at most.
    """

    engine: Engine
    positions: int
    new_tokens: int
    samples: int

    @functools.cached_property
    def characters(self) -> int:
        """What no prompt with room in `positions` is longer than."""
        return self.positions * self.engine.tokenizer.longest

    def completion(self, request: CompletionRequest) -> list[Ask]:
        """What a completion asks: as many as it has prompts.

        Raises:
          Problem: it cannot be asked.
        """
        request.check()
        prompts = [self._ids(prompt) for prompt in request.prompts()]
        return [self._ask(request, ids, "prompt", COMPLETION) for ids in prompts]

    def chat(self, request: ChatRequest) -> list[Ask]:
        """What a conversation asks, as for `completion`: one thing."""
        request.check()
        ids = self._conversation(request.messages)
        return [self._ask(request, ids, "messages", self.new_tokens)]

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        """The tokens of a text, or of a conversation."""
        if (request.prompt is None) == (request.messages is None):
            raise refused("give one of prompt and messages", "prompt")
        if request.messages is not None:
            return self._conversation(request.messages)
        return self._ids(request.prompt or "", may_be_empty=True)

    def detokenize(self, request: DetokenizeRequest) -> str:
        """The text of tokens."""
        return self.engine.tokenizer.decode(self._checked(request.tokens, "tokens"))

    def _ask(
        self, request: CompletionRequest | ChatRequest, ids: list[int], param: str, default: int
    ) -> Ask:
        room = self.positions - len(ids)
        asked = request.most_tokens()
        if asked is not None and asked > self.new_tokens:
            raise refused(
                f"max_tokens={asked} is above {self.new_tokens}, the most that this server answers",
                "max_tokens",
            )
        most = min(default, self.new_tokens, room) if asked is None else asked
        if most < 1 or most > room:
            raise refused(
                f"This model's maximum context length is {self.positions} tokens, and the prompt "
                f"has {len(ids)} of them, with {max(most, 1)} for the answer",
                param,
                "context_length_exceeded",
            )
        samples = request.n or 1
        if samples > self.samples:
            raise refused(f"n={samples} is above {self.samples}", "n")
        return Ask(
            tokens=ids,
            max_new_tokens=most,
            stop=request.stops(),
            ignore_eos=bool(request.ignore_eos),
            sampling=request.sampling(),
            samples=samples,
            streamed=bool(request.stream),
            key=request.prompt_cache_key,
        )

    def _conversation(self, messages: Sequence[Message]) -> list[int]:
        tokenizer = self.engine.tokenizer
        turns = [
            {"role": message.role.replace("developer", "system"), "content": message.text()}
            for message in messages
        ]
        self._check_length(sum(len(turn["content"]) for turn in turns), "messages")
        try:
            return tokenizer.encode_context(tokenizer.dialogue(turns))
        except ValueError as e:
            raise refused(str(e), "messages") from e

    def _ids(self, prompt: str | list[int], *, may_be_empty: bool = False) -> list[int]:
        if isinstance(prompt, str):
            self._check_length(len(prompt), "prompt")
            try:
                ids = self.engine.tokenizer.encode_context(prompt)
            except ValueError as e:
                raise refused(str(e), "prompt") from e
        else:
            ids = self._checked(prompt, "prompt")
        if not ids and not may_be_empty:
            raise refused("prompt has no tokens", "prompt")
        return ids

    def _check_length(self, characters: int, param: str) -> None:
        """Refuses a text that cannot have room, before it takes the time of its tokens."""
        if characters > self.characters:
            raise refused(
                f"This model's maximum context length is {self.positions} tokens, and the prompt "
                f"has {characters} characters, which are more",
                param,
                "context_length_exceeded",
            )

    def _checked(self, ids: list[int], param: str) -> list[int]:
        size = self.engine.config.vocab_size
        if ids and not 0 <= min(ids) <= max(ids) < size:
            raise refused(f"{param} has a token that is not from 0 to {size - 1}", param)
        return ids


def check_model(given: str | None, served: str) -> None:
    """Raises Problem if a request is for another model."""
    if given is not None and given != served:
        message = f"the model {given!r:.200} does not exist; this server has {served!r}"
        raise Problem(404, message, code="model_not_found", param="model")
