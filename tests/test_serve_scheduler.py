"""The scheduler without HTTP: who waits for whom, and what is let go."""

import gc

import jax
import pytest
import serving

from star_jax.generate.sampling import GREEDY, Sampling
from star_jax.generate.stopping import Event
from star_jax.serve.errors import Problem
from star_jax.serve.jobs import Ask, Progress, held
from star_jax.serve.metrics import Metrics
from star_jax.serve.scheduler import Limits, Scheduler
from star_jax.serve.splitting import context_tokens
from star_jax.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::star_jax.advice.Advice")
WAVE = serving.BLOCK * serving.CONTEXT


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return serving.engine(tmp_path_factory.mktemp("tokenizer"))


def scheduler(engine, *, stored=2**30, **limits):
    found = {"waiting": 99, "answers": 8, "query": serving.QUERY, "seconds": 100.0, **limits}
    return Scheduler(
        engine,
        Store(engine, device_bytes=stored),
        limits=Limits(**found, stored=stored),
        metrics=Metrics("tiny"),
    )


def ask(tokens, most=3, **how):
    return Ask(tokens=tokens, max_new_tokens=most, **{"sampling": GREEDY, **how})


def ids(length, first=5):
    return [(first + 7 * i) % 200 + 3 for i in range(length)]


class Asked:
    """One prompt, submitted; its updates as they come."""

    def __init__(self, scheduler, ask, then=lambda update: None):
        self.updates, self.then, self.scheduler = [], then, scheduler
        (self.job,) = scheduler.submit([ask], self.tell)
        self.wave = scheduler.waves
        self.first: int = -1  # the wave after which the first token came

    def tell(self, number, update):
        assert number == 0
        self.updates.append(update)
        if isinstance(update, Event) and self.first < 0:
            self.first = self.scheduler.waves
        self.then(update)

    @property
    def tokens(self):
        events = [update for update in self.updates if isinstance(update, Event)]
        assert events[-1].stop_reason
        return [token for event in events for token in event.tokens]

    @property
    def problem(self):
        (problem,) = [update for update in self.updates if isinstance(update, Problem)]
        assert self.updates[-1] is problem
        return problem.status


def run(scheduler):
    """Runs all that was submitted, in this thread."""
    scheduler.close()
    scheduler.run()


def expected(engine, tokens, most=3, **how):
    size = context_tokens(len(tokens), query=serving.QUERY)
    context = engine.prefill(tokens[: size or 1])
    context = context if size else context.cut(0)
    return engine.generate(context, tokens[size:], max_new_tokens=most, **how).tokens


@pytest.mark.parametrize("length", [1, 63, 64, 79, 80, 95, 96, 1000])
def test_a_context_is_whole_units_and_leaves_a_query(length):
    size = context_tokens(length, query=16)
    assert size == (0 if length < 64 else size)
    assert size % 16 == 0
    assert length - size in (range(1, 64) if length < 64 else range(16, 32))


def test_questions_about_a_document_have_its_tokens_in_their_contexts():
    """Of 16 tokens or fewer, they have no token of their own there."""
    document = 1000
    sizes = {context_tokens(document + question, query=16) for question in range(1, 17)}
    assert max(sizes) <= document and len(sizes) <= 2 and max(sizes) - min(sizes) <= 16


def test_short_requests_do_not_wait_for_a_long_one(engine):
    s = scheduler(engine)
    short = []

    def then(update):
        if isinstance(update, Progress) and update.done == 4 * WAVE:
            short.append(Asked(s, ask(ids(9), streamed=True)))
            short.append(Asked(s, ask(ids(9, first=8), streamed=True)))
            s.close()

    long = Asked(s, ask(ids(20 * WAVE), streamed=True), then)
    s.run()
    assert [asked.first - asked.wave <= 3 for asked in short] == [True, True]
    assert long.first == s.waves == 20
    assert long.tokens == expected(engine, ids(20 * WAVE))
    assert [asked.tokens for asked in short] == [
        expected(engine, ids(9, first=first)) for first in (5, 8)
    ]
    done = [update.done for update in long.updates if isinstance(update, Progress)]
    size = context_tokens(20 * WAVE, query=serving.QUERY)
    assert done == [min(size, i * WAVE) for i in range(1, 21)]


@pytest.mark.long
def test_two_long_ones_are_encoded_in_turn(engine):
    s = scheduler(engine)
    long, shorter = Asked(s, ask(ids(9 * WAVE))), Asked(s, ask(ids(3 * WAVE, first=9)))
    run(s)
    assert shorter.first <= 6 and long.first == s.waves == 12


def test_what_is_encoded_for_one_serves_all(engine):
    """Those that ask for the same or for less wait; those that share most of it extend it."""
    s = scheduler(engine)
    document = ids(5 * WAVE)
    prompts = [
        document + ids(9),
        document + ids(7, first=6),
        document[: 4 * WAVE] + ids(9),
        document[: 4 * WAVE] + ids(2 * WAVE, first=11),
    ]
    asked = [Asked(s, ask(tokens)) for tokens in prompts]
    run(s)
    assert s.waves == 5 + 2
    assert [one.tokens for one in asked] == [expected(engine, tokens) for tokens in prompts]
    assert [one.job.cached for one in asked] == [0, 5 * WAVE - 16, 4 * WAVE - 16, 4 * WAVE]


def test_a_dialogue_that_grows_is_stored_once(engine):
    s = scheduler(engine)
    prompts = [ids(n * WAVE) for n in (2, 3, 4)]
    grown = []

    def then(update):
        if isinstance(update, Event) and update.stop_reason:
            grown.append((len(s._store), s.waves))
            if len(asked) < len(prompts):
                asked.append(Asked(s, ask(prompts[len(asked)]), then))
            else:
                s.close()

    asked = []
    asked.append(Asked(s, ask(prompts[0]), then))
    s.run()
    assert grown == [(1, 2), (1, 4), (1, 6)]  # a wave that was partly filled, and a new one
    assert [one.tokens for one in asked] == [expected(engine, tokens) for tokens in prompts]


@pytest.mark.parametrize(("keys", "waves"), [(("a", "a"), 6 + 5), (("a", "b"), 6 + 6)])
def test_a_key_says_that_prompts_begin_alike(engine, keys, waves):
    """They share one wave of six: with one key the second waits for it."""
    s = scheduler(engine)
    prompts = [ids(WAVE) + ids(5 * WAVE + 9, first=first) for first in (6, 9)]
    asked = [Asked(s, ask(tokens, key=key)) for tokens, key in zip(prompts, keys, strict=True)]
    run(s)
    assert s.waves == waves
    assert [one.tokens for one in asked] == [expected(engine, tokens) for tokens in prompts]


def test_a_batch_ends_each_answer_at_its_own_limit(engine):
    s = scheduler(engine)
    asked = [Asked(s, ask(ids(9, first=i), most=i)) for i in (1, 5, 20)]
    run(s)
    for i, one in zip((1, 5, 20), asked, strict=True):
        assert one.tokens == expected(engine, ids(9, first=i), most=i)
        assert one.updates[-1].stop_reason == "length"


def test_draws_do_not_depend_on_the_batch(engine):
    s = scheduler(engine)
    how = [Sampling(temperature=0.9, seed=seed) for seed in (1, 2, 1)]
    asked = [Asked(s, ask(ids(9), most=9, sampling=sampling)) for sampling in how]
    run(s)
    found = [one.tokens for one in asked]
    assert found == [expected(engine, ids(9), most=9, sampling=sampling) for sampling in how]
    assert found[0] == found[2] != found[1]


def test_a_job_that_is_cancelled_is_let_go_wherever_it_is(engine):
    """In the queue, while it is encoded, and in a batch whose others go on."""
    s = scheduler(engine, answers=2)
    run(scheduler(engine))  # what all schedulers have
    expect = expected(engine, ids(9), most=40)
    gc.collect()
    before = len(jax.live_arrays())

    def then(update):
        if isinstance(update, Event) and len(update.tokens) and not gone.job.is_gone:
            for one in (gone, long, queued):
                one.job.cancel()
            s.close()

    stays = Asked(s, ask(ids(9), most=40, streamed=True), then)
    gone = Asked(s, ask(ids(9, first=6), most=2000, streamed=True))
    queued = Asked(s, ask(ids(9, first=7)))
    long = Asked(s, ask(ids(20 * WAVE)))
    s.run()
    assert stays.tokens == expect
    assert s.waves < 3 and not long.updates and not queued.updates
    assert len(jax.live_arrays()) == before


def test_others_that_wait_for_an_encoding_get_it_when_its_owner_goes(engine):
    s = scheduler(engine)

    def then(update):
        owner.job.cancel()

    owner = Asked(s, ask(ids(6 * WAVE), streamed=True), then)
    other = Asked(s, ask(ids(6 * WAVE)))
    run(s)
    assert other.tokens == expected(engine, ids(6 * WAVE))


def test_a_full_queue_and_a_closed_one_take_nothing(engine):
    s = scheduler(engine, waiting=2)
    Asked(s, ask(ids(9)))
    with pytest.raises(Problem, match="come again") as e:
        s.submit([ask(ids(9))] * 2, lambda *_: None)
    assert e.value.status == 503
    last = Asked(s, ask(ids(9)))
    run(s)
    assert last.tokens
    with pytest.raises(Problem, match="about to end"):
        Asked(s, ask(ids(9)))


def test_what_takes_too_long_is_told_so(engine):
    s = scheduler(engine, seconds=1e-9)
    asked = [Asked(s, ask(ids(9))), Asked(s, ask(ids(4 * WAVE)))]
    run(s)
    assert [one.problem for one in asked] == [504, 504]


def test_an_answer_that_takes_too_long_is_told_so_and_its_batch_goes_on(engine):
    s = scheduler(engine)

    def then(update):
        if isinstance(update, Event):
            late.job.arrived = -float("inf")

    late = Asked(s, ask(ids(9), most=2000, streamed=True), then)
    other = Asked(s, ask(ids(9, first=6), most=40, streamed=True))
    run(s)
    assert late.problem == 504
    assert sum(isinstance(update, Event) for update in late.updates) == 1
    assert other.tokens == expected(engine, ids(9, first=6), most=40)


def test_what_fails_fails_for_itself_alone(engine, monkeypatch):
    s = scheduler(engine)
    failing, fine = Asked(s, ask(ids(4 * WAVE))), Asked(s, ask(ids(9)))

    def prefilling(ids):
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine, "prefilling", prefilling)
    run(s)
    assert failing.problem == 500
    assert fine.tokens == expected(engine, ids(9))


def test_no_more_contexts_are_brought_to_the_devices_than_there_is_room_for(engine):
    """Many wait for documents that were spilled: those come back one after another."""
    s = scheduler(engine, stored=2**16)  # of one document and a half
    documents = [ids(4 * WAVE, first=first) for first in range(6)]
    size = context_tokens(4 * WAVE, query=serving.QUERY)
    one = sum(held(engine.prefill(documents[0][:size])).values())
    assert one < 2**16 < 2 * one
    answers = [expected(engine, document) for document in documents]
    s._store = Store(engine, device_bytes=2**16, host_bytes=2**30)
    for document in documents:
        s._store.add(engine.prefill(document[:size]))
    most = []

    def then(update):
        contexts = [*(job.held for job in s._ready), *(batch.held for batch in s._batches)]
        most.append(len(set().union(*contexts)))

    asked = [Asked(s, ask(document), then) for document in documents]
    run(s)
    assert s.waves == 0 and [a.tokens for a in asked] == answers
    assert max(most) <= 2 * len(held(engine.prefill(documents[0][:size])))


def test_a_document_that_the_store_has_no_room_for_is_answered(engine):
    s = scheduler(engine, stored=1)
    asked = [Asked(s, ask(ids(4 * WAVE))) for _ in range(2)]
    run(s)
    assert s.waves == 4  # those that waited got it without the store
    assert asked[0].tokens == asked[1].tokens == expected(engine, ids(4 * WAVE))
