"""What one request may cost a server, and what becomes of it when nobody waits; without a model."""

import asyncio
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tokenizers

from star_jax.cache.context import Context
from star_jax.engine import Engine
from star_jax.generate.sampling import GREEDY
from star_jax.generate.stopping import Event
from star_jax.serve import protocol
from star_jax.serve.app import Service
from star_jax.serve.bodies import Bodies
from star_jax.serve.encoding import Encoding
from star_jax.serve.errors import Problem, failed
from star_jax.serve.jobs import Ask, Job
from star_jax.serve.metrics import Metrics
from star_jax.serve.prompts import Reader
from star_jax.serve.replies import Reply
from star_jax.serve.scheduler import Limits, Scheduler
from star_jax.store import Store
from star_jax.text import files
from star_jax.text.tokenizer import Tokenizer

LIMITS = Limits(waiting=2, answers=8, query=16, seconds=60.0, stored=2**20)
MANY = 10_000
LISTS = [
    (protocol.CompletionRequest, '{"model": "m", "prompt": "a", "stop": [%s]}', "1", "stop"),
    (protocol.ChatRequest, '{"model": "m", "messages": [%s]}', "1", "messages"),
    (
        protocol.ChatRequest,
        '{"model": "m", "messages": [%s]}',
        '{"role": "user", "content": "a"}',
        "messages",
    ),
    (
        protocol.ChatRequest,
        '{"model": "m", "messages": [{"role": "user", "content": [%s]}]}',
        "1",
        "messages",
    ),
    (protocol.DetokenizeRequest, '{"tokens": [%s]}', '""', "tokens"),
]


def like(kind: type, **attributes: Any) -> Any:
    """What passes for an object of a class, and has these attributes."""
    found = mock.Mock(spec=kind)
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(("kind", "body", "bad", "param"), LISTS)
def test_a_bad_list_has_few_errors(kind: Any, body: str, bad: str, param: str) -> None:
    with pytest.raises(Problem) as e:
        protocol.parse(kind, (body % ",".join([bad] * MANY)).encode())
    assert (e.value.status, e.value.param) == (400, param)
    assert e.value.__cause__.error_count() <= 2  # type: ignore[union-attr]


def test_many_unknown_fields_are_one_error() -> None:
    fields = ",".join(f'"a{i}": 1' for i in range(MANY))
    for body, name in (
        ('{"model": "m", "messages": [{"role": "user", "content": "a"}], %s}', "a0"),
        ('{"model": "m", "messages": [{"role": "user", "content": "a", %s}]}', "messages.a0"),
    ):
        with pytest.raises(Problem, match=f"unrecognized request argument: {name}$") as e:
            protocol.parse(protocol.ChatRequest, (body % fields).encode())
        assert e.value.__cause__ is None


def test_text_that_cannot_have_room_is_refused_before_it_is_tokenised() -> None:
    def encode(text: str) -> list[int]:
        assert len(text) <= 4 * 16
        return [1] * 4

    engine = like(Engine, tokenizer=like(Tokenizer, longest=4, encode_context=encode))
    reader = Reader(engine=engine, positions=16, new_tokens=8, samples=1)
    asked = protocol.TokenizeRequest(prompt="a" * 4 * 16)
    assert reader.tokenize(asked) == [1] * 4
    said = protocol.Message(role="user", content="a" * (2 * 16 + 1))
    for asked in (
        protocol.TokenizeRequest(prompt="a" * (4 * 16 + 1)),
        protocol.TokenizeRequest(messages=[said, said]),
    ):
        with pytest.raises(Problem) as e:
            reader.tokenize(asked)
        assert (e.value.status, e.value.code) == (400, "context_length_exceeded")


def test_long_texts_are_tokenised_without_the_lock_of_python() -> None:
    """`tokenizers` lets go of it for batches alone."""
    alone, batched = like(tokenizers.Encoding), like(tokenizers.Encoding)
    file = like(tokenizers.Tokenizer)
    file.encode.return_value, file.encode_batch.return_value = alone, [batched]
    assert files.encode(file, "a" * 100) is alone
    assert files.encode(file, "a" * 100_000) is batched
    file.encode_batch.assert_called_once_with(["a" * 100_000], add_special_tokens=False)


class Sent:
    """A request whose body comes in chunks."""

    def __init__(self, *chunks: bytes):
        self.chunks = chunks

    async def stream(self) -> Any:
        for chunk in self.chunks:
            yield chunk


def test_bodies_are_bounded_one_by_one_and_together() -> None:
    bodies = Bodies(10, together=15)

    async def read(*chunks: bytes, inside: Any = None) -> bytes:
        request: Any = Sent(*chunks)
        async with bodies.read(request, seconds=60) as body:
            if inside is not None:
                await inside
            return body

    async def run() -> None:
        for _ in range(3):  # what was read or refused counts no more
            assert await read(b"12345", b"67890", inside=read(b"12345")) == b"1234567890"
            for request, status in (
                (read(b"12345", b"678901"), 413),
                (read(b"1234567890", inside=read(b"123456")), 503),
            ):
                with pytest.raises(Problem) as e:
                    await request
                assert e.value.status == status

    asyncio.run(run())


def ask(**how: Any) -> Ask:
    return Ask(tokens=[1, 2, 3], max_new_tokens=3, sampling=GREEDY, **how)


def test_a_client_that_is_gone_before_its_stream_begins_is_not_answered() -> None:
    jobs: list[Job] = []

    def submit(asks: Any, tell: Any) -> list[Job]:
        jobs.extend(Job(one, lambda update: None, context=0) for one in asks)
        return jobs

    scheduler = like(Scheduler, limits=LIMITS, submit=submit)
    reader = like(Reader, completion=lambda asked: [ask(streamed=True)], engine=like(Engine))
    app = Service(model="m", reader=reader, scheduler=scheduler, bodies=Bodies(2**10)).app()
    body = b'{"model": "m", "prompt": "a", "stream": true}'
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn says
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "headers": [],
    }
    reader.engine.tokenizer = like(Tokenizer)
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60))
    assert [job.is_gone for job in jobs] == [True]


def test_log_probabilities_of_parts_of_characters() -> None:
    """Tokens are bytes here; their offsets are those of characters in the text."""
    ids = [*"aé😀b\n".encode(), 0xFF, 0x61]

    def decode(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def told(chat: bool) -> Any:
        reply = Reply("m", chat=chat, decode=decode)
        for begin in range(0, len(ids), 3):
            some = ids[begin : begin + 3]
            reply.add(0, Event(0, some, "", None, [-1.0] * len(some)))
        reply.add(0, Event(0, [], "", "length", []))
        return reply.whole({})["choices"][0]["logprobs"]

    assert told(chat=False)["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3, 4, 5, 6]
    expected = [[97], *[None] * 6, [98], [10], None, [97]]
    assert [one["bytes"] for one in told(chat=True)["content"]] == expected


class Kept(Store):
    """A store that keeps tokens, as far as it takes them."""

    def __init__(self, *kept: list[int], takes: bool = True):
        self.kept, self.takes = list(kept), takes

    def __contains__(self, tokens: Any) -> bool:
        return list(tokens) in self.kept

    def add(self, context: Any) -> None:
        if self.takes:
            self.kept.append(context.tokens[0])

    def forget(self, tokens: Any = None) -> None:
        self.kept.remove(tokens)


def scheduler(store: Store | None = None) -> Scheduler:
    return Scheduler(
        like(Engine), Kept() if store is None else store, limits=LIMITS, metrics=Metrics("m")
    )


def test_more_prompts_than_may_ever_wait_are_no_overload() -> None:
    with pytest.raises(Problem, match="3 prompts are more than 2") as e:
        scheduler().submit([ask()] * 3, lambda *_: None)
    assert e.value.status == 400


def test_who_has_all_answers_is_told_of_no_failure() -> None:
    told: list[Any] = []
    done, going = (Job(ask(), told.append, context=0) for _ in range(2))
    done.left = 0
    scheduler()._fail([done, going], failed("no memory"))
    assert len(told) == 1 and done.left == going.left == 0


@pytest.mark.parametrize("takes", [True, False])
def test_the_shorter_context_stays_where_the_longer_one_is_not_kept(takes: bool) -> None:
    store = Kept([1, 2], takes=takes)
    job = Job(ask(), lambda update: None, context=2)
    context, ids = like(Context, tokens=[[1, 2, 3]]), np.array([1, 2, 3])
    encoding = like(Encoding, context=context, job=job, known=[1, 2], ids=ids, shared=lambda job: 0)
    scheduler(store)._finish(encoding)
    assert store.kept == ([[1, 2, 3]] if takes else [[1, 2]])


def test_contexts_in_use_are_counted_once_for_all_who_wait() -> None:
    looks = []

    class Batch:
        @property
        def held(self) -> dict[int, int]:
            looks.append(self)
            return {1: 2**10}

    s = scheduler()
    s._waiting = [Job(ask(), lambda update: None, context=2) for _ in range(100)]
    s._encodings.append(like(Encoding, shared=lambda job: 2**20, key=None))
    batch: Any = Batch()
    s._batches = [batch]
    s._encode()
    assert len(looks) == 1 and len(s._waiting) == 100
