"""A generation under way: its events, its end before time, and the context that it leaves."""

import gc

import jax
import pytest
import tiny
from test_generate import Letters, engine

import star_jax
from star_jax import Engine, Ring, Star
from star_jax.generate.compiled import STRIDE

TOLERANCE = 2e-4
TURNS = [(tiny.ids(n, seed=n), new) for n, new in ((9, 5), (40, 1), (3, 40), (17, 12))]


@pytest.fixture(scope="module")
def asked():
    e = engine()
    return e, e.prefill(tiny.ids(100)), tiny.ids(5, seed=1)


@pytest.mark.parametrize("stop", [None, ["<7", "3><1"]])
@pytest.mark.parametrize("stride", [1, 3, STRIDE])
def test_events_together_are_the_answers(asked, stride, stop):
    e, context, query = asked
    queries = [query, [5], tiny.ids(30, seed=2)]
    how = {"max_new_tokens": 45, "stop": stop}
    expected = e.generate(context, queries, **how)
    generation = e.start(context, queries, stride=stride, **how)
    tokens: list[list[int]] = [[], [], []]
    logprobs: list[list[float]] = [[], [], []]
    texts, ends = ["", "", ""], [None, None, None]
    for event in generation:
        assert ends[event.index] is None  # nothing comes after the end
        tokens[event.index].extend(event.tokens)
        logprobs[event.index].extend(event.logprobs)
        texts[event.index] += event.text or ""
        ends[event.index] = event.stop_reason
        assert len(event.tokens) == len(event.logprobs)
    for i, answer in enumerate(expected):
        assert (tokens[i], texts[i], ends[i]) == (answer.tokens, answer.text, answer.stop_reason)
        assert tiny.difference(logprobs[i], answer.logprobs) < 1e-5
    assert generation.answers == expected
    assert list(generation) == []


def test_the_answer_so_far(asked):
    e, context, query = asked
    generation = e.start(context, query, max_new_tokens=40, stride=8)
    assert generation.answer.tokens == [] and generation.answer.stop_reason is None
    events = iter(generation)
    next(events)
    whole = e.generate(context, query, max_new_tokens=40)
    so_far = generation.answer
    assert 0 < len(so_far.tokens) < 40 and so_far.stop_reason is None
    assert so_far.tokens == whole.tokens[: len(so_far.tokens)]
    assert generation.finish() == [whole] == [generation.answer]
    several = e.start(context, [query, query], max_new_tokens=2)
    with pytest.raises(ValueError, match="2 answers"):
        _ = several.answer


def arrays():
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays())


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_generation_leaves_no_array(asked, after):
    e, context, query = asked
    e.generate(context, query, max_new_tokens=70)  # what programs hold of constants is there
    before = arrays()
    generation = e.start(context, query, max_new_tokens=70, stride=8)
    events = iter(generation)
    told = [next(events) for _ in range(after)]
    if after:
        assert arrays() > before
    generation.cancel()
    assert arrays() == before
    assert generation.answer.stop_reason == "cancelled"
    assert generation.answer.tokens == [token for event in told for token in event.tokens]
    assert list(events) == [] and generation.finish() == [generation.answer]
    with pytest.raises(ValueError, match="no context to go on from"):
        _ = generation.context


def test_an_answer_that_has_ended_leaves_no_array(asked):
    e, context, query = asked
    e.generate(context, query, max_new_tokens=70)
    before = arrays()
    list(e.start(context, query, max_new_tokens=70))
    assert len(list(e.stream(context, query, max_new_tokens=70))) > 1
    assert arrays() == before


@pytest.mark.parametrize(
    ("attention", "shape"),
    [
        (Star(block_size=32, anchor_size=8), (1, 4, 1)),
        pytest.param(Ring(), (1, 4, 2), marks=pytest.mark.long),
    ],
    ids=["star", "ring"],
)
def test_four_turns_of_dialogue_equal_encoding_all_at_once(attention, shape):
    """Star: everything after the context asked as one query; exactly: one context as well."""
    mesh = star_jax.make_mesh(**dict(zip(("data", "context", "tensor"), shape, strict=True)))
    e = Engine(tiny.model(), mesh=mesh, attention=attention, tokenizer=Letters())
    first = e.prefill(tiny.ids(150))
    context = first
    since: list[int] = []
    ends: list[int] = []
    for query, new in TURNS:
        generation = e.start(context, query, max_new_tokens=new, ignore_eos=True)
        answer = generation.finish()[0].tokens
        ends.append(len(since) + len(query))
        since += [*query, *answer]
        context = generation.context
        assert context.tokens == [tiny.ids(150) + since]
    probe = tiny.ids(20, seed=9)
    logits = e.score(first, [*since, *probe])
    for start, (_, new) in zip(ends, TURNS, strict=True):  # each answer is what all so far gives
        chosen = logits[start - 1 : start - 1 + new]
        assert chosen.argmax(axis=-1).tolist() == since[start : start + new]
    assert tiny.difference(e.score(context, probe), logits[len(since) :]) < TOLERANCE
    if isinstance(attention, Ring):
        whole = e.prefill(tiny.ids(150) + since)
        assert tiny.difference(e.score(context, probe), e.score(whole, probe)) < TOLERANCE
    # A part of it that ends in a turn, and one that ends in what phase 1 has encoded.
    part = context.prefix(len(context.tokens[0]) - 30)
    expected = e.score(first, [*since[:-30], *probe])[len(since) - 30 :]
    assert tiny.difference(e.score(part, probe), expected) < TOLERANCE
    part, expected = context.prefix(100), e.score(first.prefix(100), probe)
    assert tiny.difference(e.score(part, probe), expected) < TOLERANCE


def test_each_turn_encodes_only_what_is_new(monkeypatch):
    """What goes through the model in a turn is the query, and the answer's last token."""
    from star_jax.generate import inputs

    e = engine()
    context = e.prefill(tiny.ids(200))
    shapes = []
    question = inputs.question

    def noted(group, of_rows):
        found = question(group, of_rows)
        shapes.append(found.tokens.shape)
        return found

    monkeypatch.setattr(inputs, "question", noted)
    monkeypatch.setattr(Engine, "prefill", lambda *args: pytest.fail("encodes again"))
    for _ in range(3):
        generation = e.start(context, tiny.ids(10, seed=3), max_new_tokens=4, ignore_eos=True)
        generation.finish()
        context = generation.context
    assert shapes == [(1, 16), (1, 16)] * 3


def test_a_batch_and_an_unfinished_answer_go_on(asked):
    e, _, query = asked
    contexts = [tiny.ids(n) for n in (100, 20, 90)]
    generation = e.start(e.prefill(contexts), query, max_new_tokens=20, ignore_eos=True, stride=4)
    events = iter(generation)
    for _ in range(6):
        next(events)
    answers = generation.answers
    batch = generation.context if all(a.tokens for a in answers) else None
    answers = generation.finish()
    after = generation.context
    assert after.is_batch and after.has_turns
    for i, tokens in enumerate(contexts):
        single = e.prefill(tokens)
        expected = e.score(single, [*query, *answers[i].tokens, 5])[-1]
        assert tiny.difference(e.score(after, [5])[i][-1], expected) < TOLERANCE
        if batch is not None:
            assert (
                batch.tokens[i]
                == [*tokens, *query, *generation.answers[i].tokens][: len(batch.tokens[i])]
            )
    e.prefill(contexts[0])  # contexts without turns are asked as before
    assert not e.prefill(contexts[0]).has_turns


def test_what_has_no_context_to_go_on_from(asked):
    e, context, query = asked
    generation = e.start(context, query, max_new_tokens=2)
    with pytest.raises(ValueError, match="no context to go on from"):
        _ = generation.context
    for several in (
        e.start(context, [query, query], max_new_tokens=2),
        e.start(context, query, max_new_tokens=2, samples=2),
    ):
        several.finish()
        with pytest.raises(ValueError, match="several answers to one context"):
            _ = several.context
    with pytest.raises(ValueError, match="stride=33 must be at most 32"):
        e.start(context, query, max_new_tokens=2, stride=33)


def test_generations_in_turn_a_stride_at_a_time(asked):
    e, context, query = asked
    expected = [e.generate(context, one, max_new_tokens=20).tokens for one in (query, [5])]
    generations = [e.start(context, one, max_new_tokens=20, stride=4) for one in (query, [5])]
    tokens: list[list[int]] = [[], []]
    going = True
    while going:
        found = [generation.advance() for generation in generations]
        going = any(events is not None for events in found)
        for told, events in zip(tokens, found, strict=True):
            assert sum(len(event.tokens) for event in events or []) <= 4
            told += [token for event in events or [] for token in event.tokens]
    assert tokens == expected


@pytest.mark.parametrize("stop", [None, ["no such text"]])
def test_one_answer_of_a_batch_ends_alone(asked, stop):
    """At a limit of its own, or because nobody wants it; the devices are told."""
    e, context, query = asked
    queries = [query, [5], tiny.ids(30, seed=2)]
    expected = e.generate(context, queries, max_new_tokens=45, stop=stop)
    generation = e.start(context, queries, max_new_tokens=45, stop=stop, stride=4)
    generation.limit(0, 7)
    generation.advance()
    generation.cancel(1)
    answers = generation.finish()
    assert answers[0].tokens == expected[0].tokens[:7] and answers[0].stop_reason == "length"
    assert len(answers[1].tokens) < 9 and answers[1].stop_reason == "cancelled"
    assert answers[2] == expected[2]
    (run,) = generation._runs
    assert jax.device_get(run._state.done).tolist()[:2] == [True, True]
