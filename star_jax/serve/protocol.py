"""Requests as OpenAI's API has them, checked: what is not served is refused by name.

A field that neither OpenAI nor we know is refused too: a mistyped name would else be an option
that silently does nothing. Fields that change no answer (`user`, `metadata`) are taken and ignored.
vLLM's `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are served as it has them.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from star_jax.generate.sampling import SEEDS, Sampling
from star_jax.serve.errors import Problem, refused

Request = TypeVar("Request", bound=BaseModel)

MOST_STOPS = 16
MOST_PROMPTS = 256
MOST_MESSAGES = 1024  # and parts of a message

# Pydantic collects what is wrong with every element of a list, and every unknown field: hundreds
# of bytes for each byte of a request. So lists end at the first error, and we look for fields.


class _Strict(BaseModel):
    """Refuses fields that it does not have. WHERE: which field of a request has such a value."""

    model_config = ConfigDict(extra="allow", strict=True)
    WHERE: ClassVar[str] = ""

    @model_validator(mode="after")
    def _knows_all(self) -> "_Strict":
        for name in self.model_extra or ():
            path = f"{self.WHERE}.{name:.200}" if self.WHERE else f"{name:.200}"
            raise refused(f"unrecognized request argument: {path}", self.WHERE or path)
        return self


class StreamOptions(_Strict):
    WHERE = "stream_options"

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # of nothing here


class _Generating(_Strict):
    """What both kinds of completion have."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {  # not served, but for values that do nothing
        "frequency_penalty": (None, 0),
        "presence_penalty": (None, 0),
        "logit_bias": (None, {}),
    }

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = Field(None, ge=1)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    prompt_cache_key: str | None = Field(None, max_length=512)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None

    def most_tokens(self) -> int | None:
        """The limit that the request sets."""
        return self.max_tokens

    def stops(self) -> tuple[str, ...]:
        """The stop words."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > MOST_STOPS:
            raise refused(f"stop has {len(given)} strings; at most {MOST_STOPS}", "stop")
        if not all(given):
            raise refused("stop has an empty string, which would end every answer", "stop")
        return tuple(given)

    def sampling(self) -> Sampling:
        """How answers are drawn; at temperature 1 unless the request says otherwise."""
        seed = None if self.seed is None else self.seed % SEEDS
        given = {
            "temperature": self.temperature,
            "top_k": None if self.top_k is None else max(0, self.top_k),  # vLLM's -1 is all
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        found = {name: value for name, value in given.items() if value is not None}
        try:
            return Sampling(seed=seed, **found)  # type: ignore[arg-type]
        except ValueError as e:
            raise refused(str(e), str(e).partition("=")[0]) from e

    def check(self) -> None:
        """Refuses what is not served."""
        for name, values in self.NEUTRAL.items():
            if (value := getattr(self, name)) not in values:
                raise refused(f"{name}={value!r:.60} is not supported by this server", name)
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options needs stream=true", "stream_options")

    @property
    def has_logprobs(self) -> bool:
        return False

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(_Generating):
    """POST /v1/completions."""

    NEUTRAL = {
        **_Generating.NEUTRAL,
        "best_of": (None, 1),
        "echo": (None, False),
        "suffix": (None, ""),
    }

    prompt: Any
    logprobs: int | None = Field(None, ge=0)
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or token ids."""
        given = self.prompt
        if isinstance(given, str) or _are(int, given):
            given = [given]
        if not isinstance(given, list) or not given:
            raise refused("prompt must be a text, token ids, or a list of one of these", "prompt")
        if len(given) > MOST_PROMPTS:
            raise refused(f"prompt has {len(given)} prompts; at most {MOST_PROMPTS}", "prompt")
        if not (_are(str, given) or all(_are(int, one) for one in given)):
            raise refused("prompt must be a text, token ids, or a list of one of these", "prompt")
        return given

    def check(self) -> None:
        super().check()
        if self.logprobs:
            raise refused(
                f"logprobs={self.logprobs} asks for tokens that were not chosen; logprobs=0 gives "
                "those of the tokens that were",
                "logprobs",
            )

    @property
    def has_logprobs(self) -> bool:
        return self.logprobs is not None


class Message(_Strict):
    """A turn of a conversation; its content is text."""

    WHERE = "messages"

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MOST_MESSAGES)]
    name: str | None = None
    # What replies have, and clients send back as it is.
    refusal: None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def text(self) -> str:
        """Its text, which may come in parts."""
        if isinstance(self.content, str):
            return self.content
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise refused("messages: this server reads parts of type text alone", "messages")
        return "".join(part["text"] for part in self.content)


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]


class ChatRequest(_Generating):
    """POST /v1/chat/completions."""

    NEUTRAL = {
        **_Generating.NEUTRAL,
        "response_format": (None, {"type": "text"}),
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "functions": (None, []),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "web_search_options": (None,),
    }

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    # These change no answer.
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_retention: Any = None

    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def check(self) -> None:
        super().check()
        if self.top_logprobs:
            raise refused(
                f"top_logprobs={self.top_logprobs} asks for tokens that were not chosen; "
                "logprobs=true alone gives those of the tokens that were",
                "top_logprobs",
            )

    @property
    def has_logprobs(self) -> bool:
        return bool(self.logprobs)


class TokenizeRequest(_Strict):
    """POST /tokenize, as vLLM has it: a text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None


class DetokenizeRequest(_Strict):
    """POST /detokenize, as vLLM has it."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


def parse(kind: type[Request], body: bytes) -> Request:
    """The request that a body is.

    Raises:
      Problem: it is none; it names the field, and says what is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as e:
        raise _problem(e) from e


def _problem(e: ValidationError) -> Problem:
    error = e.errors(include_url=False, include_context=False, include_input=False)[0]
    where = [str(part) for part in error["loc"]]
    if not where:
        return refused(f"the body is no such request: {error['msg']}")
    return refused(f"{'.'.join(where)}: {error['msg']}", where[0])


def _are(kind: type, values: Any) -> bool:
    """Whether it is a list of such, and not empty. JSON's true is no number."""
    return isinstance(values, list) and bool(values) and all(type(v) is kind for v in values)
