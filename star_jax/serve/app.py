"""The routes: what HTTP asks goes to the scheduler, and what that tells goes back."""

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from star_jax.serve import protocol
from star_jax.serve.bodies import Bodies
from star_jax.serve.errors import Problem, failed
from star_jax.serve.jobs import Ask, Job, Progress, Update
from star_jax.serve.prompts import Reader, check_model
from star_jax.serve.replies import Reply, sent, usage
from star_jax.serve.scheduler import Scheduler

OPEN = ("/health",)  # needs no token


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes serve. token: of the bearer, or none."""

    model: str
    reader: Reader
    scheduler: Scheduler
    bodies: Bodies
    token: str = ""
    created: int = 0

    def app(self) -> Starlette:
        """The application, for a server of ASGI."""
        post, get = ["POST"], ["GET"]
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=post),
                Route("/v1/completions", self.completions, methods=post),
                Route("/v1/models", self.models, methods=get),
                Route("/v1/models/{model:path}", self.models, methods=get),
                Route("/tokenize", self.tokenize, methods=post),
                Route("/detokenize", self.detokenize, methods=post),
                Route("/health", self.health, methods=get),
                Route("/metrics", self.metrics, methods=get),
            ],
            middleware=[Middleware(Bearer, token=self.token)],
            exception_handlers={
                Problem: _problem,
                HTTPException: _http,
                ClientDisconnect: _gone,
                Exception: _defect,
            },
        )

    async def chat(self, request: Request) -> Response:
        async with self._reading(request, protocol.ChatRequest) as asked:
            asks = await asyncio.to_thread(self.reader.chat, asked)
        return await self._answer(request, asked, asks, chat=True)

    async def completions(self, request: Request) -> Response:
        async with self._reading(request, protocol.CompletionRequest) as asked:
            asks = await asyncio.to_thread(self.reader.completion, asked)
        return await self._answer(request, asked, asks, chat=False)

    async def models(self, request: Request) -> Response:
        told = {
            "id": self.model,
            "object": "model",
            "created": self.created,
            "owned_by": "star_jax",
            "max_model_len": self.reader.positions,
        }
        if (name := request.path_params.get("model")) is not None:
            check_model(name, self.model)
            return JSONResponse(told)
        return JSONResponse({"object": "list", "data": [told]})

    async def tokenize(self, request: Request) -> Response:
        async with self._reading(request, protocol.TokenizeRequest) as asked:
            ids = await asyncio.to_thread(self.reader.tokenize, asked)
        positions = self.reader.positions
        return JSONResponse({"count": len(ids), "max_model_len": positions, "tokens": ids})

    async def detokenize(self, request: Request) -> Response:
        async with self._reading(request, protocol.DetokenizeRequest) as asked:
            text = await asyncio.to_thread(self.reader.detokenize, asked)
        return JSONResponse({"prompt": text})

    async def health(self, request: Request) -> Response:
        del request
        return Response()

    async def metrics(self, request: Request) -> Response:
        del request
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.scheduler.metrics.text(), media_type=kind)

    @contextlib.asynccontextmanager
    async def _reading(
        self, request: Request, kind: type[protocol.Request]
    ) -> AsyncIterator[protocol.Request]:
        """What a request says, for a model that is here; its bytes count until the block ends."""
        async with self.bodies.read(request, seconds=self.scheduler.limits.seconds) as body:
            asked = await asyncio.to_thread(protocol.parse, kind, body)
            check_model(getattr(asked, "model", None), self.model)
            yield asked

    async def _answer(
        self,
        request: Request,
        asked: protocol.ChatRequest | protocol.CompletionRequest,
        asks: Sequence[Ask],
        *,
        chat: bool,
    ) -> Response:
        decode = self.reader.engine.tokenizer.decode if asked.has_logprobs else None
        reply = Reply(self.model, chat=chat, decode=decode)
        answers = _Answers(self.scheduler, asks)
        if asked.stream:
            pieces = _pieces(answers, reply, wants_usage=asked.wants_usage)
            return _Stream(answers, pieces)
        collecting = asyncio.create_task(_collected(answers, reply))
        leaving = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)  # nobody reads it
            return JSONResponse(collecting.result())
        finally:
            collecting.cancel()
            leaving.cancel()


class _Answers:
    """The updates of a request's prompts as they come: (number of the prompt, update)."""

    def __init__(self, scheduler: Scheduler, asks: Sequence[Ask]):
        loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()
        self._left = sum(ask.samples for ask in asks)
        self._samples = asks[0].samples

        def tell(number: int, update: Update) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._updates.put_nowait, (number, update))

        self.jobs: list[Job] = scheduler.submit(asks, tell)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Update]]:
        """Updates until all answers have ended; the number is that of the choice.

        Raises:
          Problem: an answer cannot be had.
        """
        try:
            while self._left:
                number, update = await self._updates.get()
                if isinstance(update, Problem):
                    raise update
                if isinstance(update, Progress):
                    yield number, update
                    continue
                self._left -= update.stop_reason is not None
                yield number * self._samples + update.index, update
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody reads on."""
        for job in self.jobs:
            job.cancel()


async def _collected(answers: _Answers, reply: Reply) -> dict[str, Any]:
    async for index, update in answers:
        if not isinstance(update, Progress | Problem):
            reply.add(index, update)
    return reply.whole(usage(answers.jobs))


async def _pieces(answers: _Answers, reply: Reply, *, wants_usage: bool) -> AsyncIterator[str]:
    """The events of a stream. While a context is encoded, comments say how far it is."""
    more = {"usage": None} if wants_usage else {}
    try:
        async for index, update in answers:
            if isinstance(update, Progress):
                yield f": {update.done} of {update.whole} tokens are encoded\n\n"
            elif not isinstance(update, Problem) and (chunk := reply.add(index, update)):
                yield sent(chunk | more)
        if wants_usage:
            yield sent(reply.last(usage(answers.jobs)))
        yield sent("[DONE]")
    except Problem as problem:
        yield sent(problem.body())
    finally:
        answers.cancel()


class _Stream(StreamingResponse):
    """The events of answers. A client may be gone before the first: then `pieces` never begins."""

    def __init__(self, answers: _Answers, pieces: AsyncIterator[str]):
        headers = {"Cache-Control": "no-cache"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def _until_gone(request: Request) -> None:
    """Returns when the client has gone away. The body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Bearer:
    """Lets in those who have the token, if there is one."""

    def __init__(self, app: ASGIApp, *, token: str):
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._token and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, token = given.partition(b" ")
            is_right = secrets.compare_digest(token.strip(), self._token)
            if kind.lower() != b"bearer" or not is_right:
                problem = Problem(401, "the API key is missing or wrong", code="invalid_api_key")
                response = _told(problem, {"WWW-Authenticate": "Bearer"})
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _told(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    if problem.status == 503:
        headers = {"Retry-After": "1", **(headers or {})}
    return JSONResponse(problem.body(), status_code=problem.status, headers=headers)


async def _problem(request: Request, exc: Exception) -> Response:
    del request
    return _told(exc if isinstance(exc, Problem) else failed("a defect"))


async def _http(request: Request, exc: Exception) -> Response:
    """What Starlette refuses: unknown paths and methods."""
    del request
    if not isinstance(exc, HTTPException):
        return _told(failed("a defect"))
    return _told(Problem(exc.status_code, exc.detail), dict(exc.headers or {}))


async def _gone(request: Request, exc: Exception) -> Response:
    del request, exc
    return Response(status_code=499)  # nobody reads it


async def _defect(request: Request, exc: Exception) -> Response:
    """Starlette logs it."""
    del request
    return _told(failed(f"this is a defect: {type(exc).__name__}"))
