"""The server, asked by OpenAI's own client, and by others that are not so polite."""

import asyncio
import functools
import gc
import json
import re
import time
from typing import Any

import httpx
import jax
import openai
import pytest
import serving

from star_jax.generate.sampling import Sampling
from star_jax.serve.batch import Batch
from star_jax.serve.splitting import context_tokens

TEXT = "the grass is green. the sky is blue. "
DOCUMENTS = [TEXT * 14, "here we go, there and back again. " * 12]
TOKEN = "secret"
pytestmark = pytest.mark.filterwarnings("ignore::star_jax.advice.Advice")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return serving.engine(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def service(engine):
    return serving.service(engine, token=TOKEN)


@pytest.fixture(scope="module")
def at(service):
    with serving.served(service) as at:
        yield at


@pytest.fixture(scope="module")
def client(at):
    return serving.client(at, TOKEN)


@pytest.fixture(scope="module")
def http(at):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=at, headers=headers, timeout=600) as client:
        yield client


def alone(engine, text, **how):
    """What the engine itself answers."""
    ids = engine.tokenizer.encode_context(text) if isinstance(text, str) else text
    size = context_tokens(len(ids), query=serving.QUERY)
    return engine.generate(encoded(engine, tuple(ids[:size])), ids[size:], **how)


@functools.lru_cache(maxsize=8)
def encoded(engine, ids):
    return engine.prefill(list(ids)) if ids else engine.prefill([0]).cut(0)


@pytest.mark.parametrize("text", ["is", TEXT, DOCUMENTS[0]])
def test_a_completion_is_the_engines_own(engine, client, text):
    reply = client.completions.create(
        model="tiny", prompt=text, max_tokens=9, temperature=0, logprobs=0
    )
    expected = alone(engine, text, max_new_tokens=9)
    assert reply.choices[0].text == expected.text
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.prompt_tokens == len(engine.tokenizer.encode_context(text))
    assert reply.usage.completion_tokens == len(expected.tokens) == 9
    told = reply.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert told.tokens == [engine.tokenizer.decode([token]) for token in expected.tokens]


def test_a_chat(engine, client):
    messages = [
        {"role": "system", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "is <s>"}]},
    ]
    reply = client.chat.completions.create(
        model="tiny", messages=messages, max_completion_tokens=9, temperature=0, logprobs=True
    )
    head = engine.tokenizer.encode_context("<s>system: be\nuser: is ", special=True)
    spelled = engine.tokenizer.encode_query("<s>")
    tail = engine.tokenizer.encode_query("\nassistant: ")
    expected = alone(engine, [*head, *spelled, *tail], max_new_tokens=9)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.role) == (expected.text, "assistant")
    told = [one.logprob for one in choice.logprobs.content]
    assert told == pytest.approx(expected.logprobs, abs=1e-4)
    assert reply.usage.prompt_tokens == len([*head, *spelled, *tail])


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_the_reply_in_pieces(client, usage):
    how = {"model": "tiny", "prompt": [TEXT, "is"], "max_tokens": 30, "temperature": 0, "n": 2}
    whole = client.completions.create(**how)
    texts, ends, last = [""] * 4, [None] * 4, None
    options = {"stream_options": {"include_usage": True}} if usage else {}
    for chunk in client.completions.create(**how, stream=True, **options):
        for choice in chunk.choices:
            assert ends[choice.index] is None
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason
        last = chunk.usage
    assert texts == [choice.text for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert last == (whole.usage if usage else None)


def test_a_streamed_chat_says_who_speaks_and_where_it_stops(engine, client):
    messages = [{"role": "user", "content": "the"}]
    how = {"model": "tiny", "messages": messages, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**how).choices[0].message.content
    stop = whole[len(whole) // 2 :][:2]
    told = list(client.chat.completions.create(**how, stop=[stop], stream=True))
    assert [c.choices[0].delta.role for c in told] == ["assistant"] + [None] * (len(told) - 1)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told)
    assert text == whole[: whole.index(stop)]
    assert told[-1].choices[0].finish_reason == "stop"


def test_seeds_and_several_answers(engine, client):
    how = {"model": "tiny", "prompt": TEXT, "max_tokens": 8, "temperature": 0.9, "top_p": 0.95}
    more = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True}
    texts = [
        [c.text for c in client.completions.create(**how, seed=7, n=3, extra_body=more).choices]
        for _ in range(2)
    ]
    sampling = Sampling(
        temperature=0.9, top_p=0.95, top_k=40, min_p=0.01, repetition_penalty=1.1, seed=7
    )
    expected = alone(engine, TEXT, max_new_tokens=8, sampling=sampling, samples=3, ignore_eos=True)
    assert texts[0] == texts[1] == [answer.text for answer in expected]
    assert len(set(texts[0])) == 3


def test_token_ids_are_prompts(engine, client):
    ids = [engine.tokenizer.encode_context(text) for text in ("is", TEXT)]
    how = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    several = client.completions.create(prompt=ids, **how).choices
    assert [choice.index for choice in several] == [0, 1]
    for one, choice in zip(ids, several, strict=True):
        assert client.completions.create(prompt=one, **how).choices[0].text == choice.text


def test_models_and_tokens(engine, client, http):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")
    told = http.post("/tokenize", json={"model": "tiny", "prompt": TEXT}).json()
    assert told["tokens"] == engine.tokenizer.encode_context(TEXT)
    assert told["count"] == len(told["tokens"]) and told["max_model_len"] == 4096
    back = http.post("/detokenize", json={"tokens": told["tokens"][1:]}).json()
    assert back == {"prompt": TEXT}
    messages = [{"role": "user", "content": "is"}]
    told = http.post("/tokenize", json={"messages": messages}).json()
    expected = engine.tokenizer.encode_context("<s>user: is\nassistant: ", special=True)
    assert told["tokens"] == expected


def test_the_second_question_on_a_document_encodes_nothing(service, client):
    document = "a document that nobody has read. " * 11
    told = []
    for question in ("is it?", "the sky is what?"):
        before = service.scheduler.waves
        reply = client.completions.create(
            model="tiny", prompt=document + question, max_tokens=3, temperature=0
        )
        told.append((service.scheduler.waves - before, reply.usage))
    (first, fresh), (second, known) = told
    assert first > 2 and fresh.prompt_tokens_details.cached_tokens == 0
    size = context_tokens(known.prompt_tokens, query=serving.QUERY)
    new = size - context_tokens(fresh.prompt_tokens, query=serving.QUERY)
    assert known.prompt_tokens_details.cached_tokens == size - new
    assert second == (new > 0)  # a unit more of it is encoded, in one wave


BAD = {
    "no JSON": ("{", 400, None),
    "no object": ("[1]", 400, None),
    "no prompt": ({"prompt": None}, 400, "prompt"),
    "an empty list": ({"prompt": []}, 400, "prompt"),
    "a mixture": ({"prompt": ["a", 1]}, 400, "prompt"),
    "no such token": ({"prompt": [99999]}, 400, "prompt"),
    "half a character": ('{"model": "tiny", "prompt": "\\ud800"}', 400, None),
    "a typing error": ({"temprature": 0}, 400, "temprature"),
    "a string for a number": ({"max_tokens": "5"}, 400, "max_tokens"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens"),
    "too many tokens": ({"max_tokens": 65}, 400, "max_tokens"),
    "too many answers": ({"n": 9}, 400, "n"),
    "a temperature below 0": ({"temperature": -1}, 400, "temperature"),
    "no probability": ({"top_p": 0}, 400, "top_p"),
    "an empty stop": ({"stop": ""}, 400, "stop"),
    "other tokens' logprobs": ({"logprobs": 2}, 400, "logprobs"),
    "what we have not": ({"echo": True}, 400, "echo"),
    "a penalty": ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    "options of no stream": ({"stream_options": {}}, 400, "stream_options"),
    "another model": ({"model": "other"}, 404, "model"),
    "too long": ({"prompt": "word " * 4096}, 400, "prompt"),
    "too large": ({"prompt": "a" * 2**17}, 413, None),
}


@pytest.mark.parametrize(("body", "status", "param"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_by_name(http, body, status, param):
    if isinstance(body, dict):
        body = json.dumps({"model": "tiny", "prompt": "is", **body})
    reply = http.post("/v1/completions", content=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error" and error["message"]


def test_what_a_chat_has_not_is_refused_by_name(client):
    create = client.chat.completions.create
    user = {"role": "user", "content": "is"}
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "messages"),
        ([{"role": "wizard", "content": "is"}], {}, "messages"),
        ([{"role": "user", "content": [image]}], {}, "messages"),
        ([user], {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ([user], {"response_format": {"type": "json_object"}}, "response_format"),
        ([user], {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
    ]
    for messages, how, param in cases:
        with pytest.raises(openai.BadRequestError) as e:
            create(model="tiny", messages=messages, **how)
        assert e.value.param == param
    with pytest.raises(openai.BadRequestError) as e:
        create(model="tiny", messages=[{"role": "user", "content": "word " * 3000}])
    assert e.value.code == "context_length_exceeded"


def test_only_the_token_lets_in(at, http):
    for key in ("none", TOKEN + "x", "\xe4"):
        reply = httpx.get(f"{at}/v1/models", headers={b"Authorization": f"Bearer {key}".encode()})
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{at}/metrics").status_code == 401
    assert httpx.get(f"{at}/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        serving.client(at).models.list()
    for path, status in (("/v1/nothing", 404), ("/v1/completions", 405)):
        reply = http.get(path)
        assert (reply.status_code, reply.json()["error"]["type"]) == (
            status,
            "invalid_request_error",
        )


def wait(until):
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def idle(service):
    """Waits until the devices have nothing to do; how many arrays live then."""
    numbers = service.scheduler.metrics
    wait(lambda: not value(numbers, "num_requests_running"))
    gc.collect()
    return len(jax.live_arrays())


def value(metrics, name):
    found = re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", metrics.text().decode(), re.MULTILINE)
    return float(found[0])


def test_a_client_that_goes_away_disturbs_nobody(service, http, client, monkeypatch):
    how: dict[str, Any] = {"model": "tiny", "prompt": "the sky", "max_tokens": 64}
    how |= {"temperature": 0, "extra_body": {"ignore_eos": True}}
    expected = client.completions.create(**how).choices[0].text
    before = idle(service)
    made = value(service.scheduler.metrics, "generation_tokens_total")
    advance = Batch.advance

    def slow(batch):  # so that it is known in time who has gone
        time.sleep(0.1)
        advance(batch)

    monkeypatch.setattr(Batch, "advance", slow)
    other = client.completions.create(**how, stream=True)
    body = {"model": "tiny", "prompt": "the grass", "max_tokens": 64, "n": 8, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as killed:
        next(killed.iter_lines())
    with pytest.raises(httpx.TimeoutException):  # nor does one that did not stream
        http.post("/v1/completions", json=body, timeout=0.05)
    assert "".join(chunk.choices[0].text for chunk in other) == expected
    wait(lambda: idle(service) == before)  # the last request may have come but now
    made = value(service.scheduler.metrics, "generation_tokens_total") - made
    assert 64 <= made < 64 + 8 * 64  # the two together made less than one of them would


def test_many_at_once_get_their_own_answers(engine, service, at):
    """Mixed lengths and documents; each answer is what it is alone, and none is lost."""
    prompts = [
        *(TEXT[i : i + 4 + i % 17] for i in range(24)),
        *(f"{DOCUMENTS[i % 2]}{'is ' * (1 + i % 5)}{i}" for i in range(40)),
    ]
    tokens = [3 + i % 9 for i in range(len(prompts))]
    expected = [
        alone(engine, text, max_new_tokens=most).text
        for text, most in zip(prompts, tokens, strict=True)
    ]
    before = idle(service)
    waves = service.scheduler.waves

    async def ask(client, text, most, streams):
        how = {"model": "tiny", "prompt": text, "max_tokens": most, "temperature": 0}
        if not streams:
            return (await client.completions.create(**how)).choices[0].text
        stream = await client.completions.create(**how, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{at}/v1", api_key=TOKEN, timeout=600) as client:
            numbered = enumerate(zip(prompts, tokens, strict=True))
            return await asyncio.gather(
                *(ask(client, text, most, i % 3 == 0) for i, (text, most) in numbered)
            )

    assert asyncio.run(ask_all()) == expected
    assert service.scheduler.waves - waves < 40  # each document is encoded once, or extended
    gc.collect()
    assert idle(service) < before + 40  # two more contexts are stored, for each length


def test_memory_is_flat(service, client):
    counts = []
    for i in range(100):
        client.completions.create(
            model="tiny", prompt=f"{DOCUMENTS[0]}is {i:03}", max_tokens=2, temperature=0
        )
        if i % 33 == 0:
            counts.append(idle(service))
    assert len(set(counts)) == 1


def test_metrics_have_vllms_names(client, http, service):
    idle(service)
    before = {name: value(service.scheduler.metrics, name) for name in COUNTED}
    prompt = f"{DOCUMENTS[0]}is 000"
    reply = client.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0)
    idle(service)
    text = http.get("/metrics").text
    grown = {name: value(service.scheduler.metrics, name) - before[name] for name in COUNTED}
    cached = reply.usage.prompt_tokens_details.cached_tokens
    assert cached > 0
    assert grown == {
        "prompt_tokens_total": reply.usage.prompt_tokens,
        "generation_tokens_total": 4,
        "prefix_cache_queries_total": reply.usage.prompt_tokens,
        "prefix_cache_hits_total": cached,
        "time_to_first_token_seconds_count": 1,
        "inter_token_latency_seconds_count": 3,
        "e2e_request_latency_seconds_count": 1,
        "request_queue_time_seconds_count": 1,
        "request_prefill_time_seconds_count": 1,
        "request_decode_time_seconds_count": 1,
    }
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{model_name="tiny"}}' in text
    assert 'vllm:request_success_total{finished_reason="length",model_name="tiny"}' in text


COUNTED = (
    "prompt_tokens_total generation_tokens_total prefix_cache_queries_total "
    "prefix_cache_hits_total time_to_first_token_seconds_count inter_token_latency_seconds_count "
    "e2e_request_latency_seconds_count request_queue_time_seconds_count "
    "request_prefill_time_seconds_count request_decode_time_seconds_count"
).split()
