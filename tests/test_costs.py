"""What is paid for: what is used, not the limit, and not what stands beside it. Counts, mostly."""

import math
import time
from typing import Any

import flops
import jax
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Dense, Engine, Ring, Star
from star_jax.cache.group import FEW, grouped
from star_jax.cache.sharded import ROUND, eighths
from star_jax.generate import compiled, run
from star_jax.prefill import exact, star, waves


def engine(attention=None, *, data=1, devices=1, **options):
    mesh = star_jax.make_mesh(data=data, context=devices)
    fields = {"max_position_embeddings": 2**20, **options}
    return Engine(tiny.model(**fields), mesh=mesh, attention=attention or Star(block_size=64))


def shard(encoded) -> int:
    """Keys that one device has room for."""
    kv = encoded.groups[0].cache.layers[0].k
    return kv.addressable_shards[0].data.shape[1]


def ratio(few, many, *, below: float) -> float:
    """Processor time of `many` by that of `few`: of four tries the first that is low enough.

    What the machine does besides can add to either. What costs twice as much is above in all four.
    """
    few(), many()  # compiled before
    for _ in range(4):
        times: list[list[float]] = [[], []]
        for _ in range(9):
            for call, found in zip((few, many), times, strict=True):
                start = time.process_time()
                call()
                found.append(time.process_time() - start)
        measured = min(times[1]) / min(times[0])
        if measured < below:
            break
    return measured


def noting(notes, f, what=lambda *args, **kwargs: args):
    """`f`, with something of every call written down."""

    def noted(*args, **kwargs):
        notes.append(what(*args, **kwargs))
        return f(*args, **kwargs)

    return noted


def test_nine_tokens_cost_the_same_whatever_the_limit():
    e = engine()
    encoded, ask = e.prefill(tiny.ids(200)), tiny.ids(5, seed=1)
    tokens = e.generate(encoded, ask, max_new_tokens=9).tokens
    e.eos_token_ids = (tokens[8],)
    assert tokens[8] not in tokens[:8]

    def nine(limit):
        answer = e.generate(encoded, ask, max_new_tokens=limit)
        assert (answer.tokens, answer.stop_reason) == (tokens[:8], "eos")

    assert ratio(lambda: nine(256), lambda: nine(65_536), below=1.2) < 1.2


def test_room_grows_with_the_answer(monkeypatch):
    """In few steps, each a program, and never beyond the limit."""
    monkeypatch.setattr(compiled, "ROOM", 8)
    compiled.programs.cache_clear()
    rooms: list[int] = []
    grow = run._grow
    monkeypatch.setattr(run, "_grow", noting(rooms, grow, lambda mesh, n: n))
    e = engine()
    encoded, ask = e.prefill(tiny.ids(100)), tiny.ids(5, seed=1)
    long = e.generate(encoded, ask, max_new_tokens=300)
    assert rooms == [32, 128, 512]
    compiled.programs.cache_clear()
    monkeypatch.setattr(compiled, "ROOM", 512)
    assert e.generate(encoded, ask, max_new_tokens=300).tokens == long.tokens
    assert rooms == [32, 128, 512]
    compiled.programs.cache_clear()


@pytest.mark.parametrize("waves", [1, 2, 7, 8, 9, 15, 17, 33, 100, 129])
def test_at_most_an_eighth_of_a_cache_is_empty(waves):
    assert waves <= eighths(waves) <= 9 / 8 * waves
    shards = exact.cut_into_shards(waves * 8192, Dense().chunks(8))
    assert waves * 8192 <= shards.length <= 9 / 8 * waves * 8192


def test_sizes_are_few():
    assert len({eighths(n) for n in range(1025, 2049)}) == 8


@pytest.mark.parametrize("devices", [1, 2])
def test_nine_waves_have_room_for_nine(devices):
    encoded = engine(Star(block_size=16), devices=devices).prefill(tiny.ids(9 * 16 * devices))
    assert shard(encoded) == 9 * 16


@pytest.mark.parametrize("length", [37, 300])
def test_room_is_whole_rows_of_a_copy(length):
    """On Hopper, else, each layer's cache would be padded, and so copied, for every token."""
    encoded = engine(Star(block_size=37, anchor_size=11), devices=2).prefill(tiny.ids(length))
    assert shard(encoded) % ROUND == 0


def test_the_first_wave_is_let_go_of(monkeypatch):
    """While later waves run, nothing but the cache, the anchors and one wave is there."""
    e = engine(Star(block_size=64, anchor_size=8))
    e.prefill(tiny.ids(64 * 9))  # compiled; and what else stays has come
    before = sum(x.nbytes for x in jax.live_arrays())
    seen = []
    write = star.write

    def measure(cache, wave, index, *, mesh):
        written = write(cache, wave, index, mesh=mesh)
        seen.append(sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted()) - before)
        return written

    monkeypatch.setattr(star, "write", measure)
    e.prefill(tiny.ids(64 * 9, seed=5))
    wave = 2 * 2 * 64 * 2 * 16 * 4  # layers, K and V, tokens, heads, head dim, bytes
    anchors = wave // 8
    assert len(seen) == 8  # the first wave is copied into the room for all
    assert max(seen) < (9 + 1) * wave + anchors + wave // 2


def test_decoding_reads_the_keys_that_are_there(monkeypatch):
    """8193 tokens, with room for 18 blocks of 512: 17 tiles a step and layer.

    The question, in 16 rows, reads more at a time: 1024 of 4096 keys, 2048 of more.
    """
    read: list[Any] = []
    loop = jax.lax.fori_loop

    def counting(first, end, *args):
        if isinstance(end, jax.core.Tracer):  # a number of tiles: known when it runs
            jax.debug.callback(read.append, end)
        return loop(first, end, *args)

    e, ask = engine(Star(block_size=512)), tiny.ids(5, seed=1)
    tiles: dict[int, list[int]] = {}
    compiled.programs.cache_clear()
    with monkeypatch.context() as m:
        m.setattr(jax.lax, "fori_loop", counting)
        for n in (4096, 8193):
            encoded = e.prefill(tiny.ids(n))
            read.clear()
            e.generate(encoded, ask, max_new_tokens=8, ignore_eos=True)
            jax.effects_barrier()
            tiles[n] = [int(count) for count in read]
    compiled.programs.cache_clear()  # those that count
    assert set(tiles[4096]) == {4, 8}
    assert shard(encoded) == 18 * 512
    assert set(tiles[8193]) == {5, 17}
    assert len(tiles[4096]) == len(tiles[8193]) >= 2 * 8  # layers, steps


@pytest.mark.parametrize("attention", [Star(block_size=1024), Dense(), Ring()], ids=str)
def test_a_long_row_does_not_make_short_ones_long(attention, monkeypatch):
    """One of 8K beside seven of 1K: at most 1.3 times the matmuls of fifteen thousand tokens."""
    model, mesh = tiny.model(max_position_embeddings=2**20), star_jax.make_mesh()
    e = Engine(model, mesh=mesh, attention=attention)
    lengths = [1024] * 3 + [8192] + [1024] * 4
    work = counted(monkeypatch, lambda: e.prefill([tiny.ids(n) for n in lengths]))
    alone = counted(monkeypatch, lambda: [e.prefill(tiny.ids(n)) for n in lengths])
    assert work <= 1.01 * alone  # of what the rows cost by themselves
    if isinstance(attention, Star):
        one = counted(monkeypatch, lambda: e.prefill(tiny.ids(15_000)))
        assert work <= 1.3 * one


def counted(monkeypatch, call) -> int:
    """Matmul FLOPs of all programs of phase 1 that are run; none of them really is."""
    total = 0

    def counting(program):
        def run(*args):
            nonlocal total
            traced = program.trace(*args)
            total += flops.matmul_flops(traced)
            return jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), traced.out_info)

        return run

    programs, exact_program = waves.programs, exact.program
    with monkeypatch.context() as m:
        m.setattr(waves, "programs", lambda *a: tuple(map(counting, programs(*a))))
        m.setattr(exact, "program", lambda *a: counting(exact_program(*a)))
        call()
    return total


def test_groups_are_few_and_waste_little():
    """At most an eighth of a group, and of all rows; or 512 tokens of padding each."""
    rng = np.random.default_rng(0)
    for data in (1, 2):
        for _ in range(50):
            lengths = rng.integers(1, 20_000, size=rng.integers(1, 17)).tolist()
            groups = grouped(lengths, data=data)
            assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
            for group in groups:
                rows = [lengths[i] for i in group]
                if len(rows) > data:
                    waste = max(rows) * len(rows) - sum(rows)
                    assert waste <= max(sum(rows) // 8, FEW)
    assert grouped([1000] * 9, data=2) == [tuple(range(9))]
    assert grouped([100, 90, 60], data=1) == [(0, 1, 2)]
    assert grouped([1024, 8192, 1024], data=1) == [(1,), (0, 2)]


def test_rows_set_apart_answer_as_they_would_alone():
    """Greedy and drawn tokens, logits, likelihoods, parts: in the order that they came in."""
    e = engine(Star(block_size=64, anchor_size=8), data=2, devices=2)
    rows = [tiny.ids(n, seed=n) for n in (70, 1500, 90, 1450, 80)]
    asks = [tiny.ids(n, seed=n) for n in (5, 9, 3, 15, 4)]
    batch = e.prefill(rows)
    assert [group.rows for group in batch.groups] == [(1, 3), (0, 2, 4)]
    draw = star_jax.Sampling(seed=3, repetition_penalty=1.3)
    greedy = e.generate(batch, asks, max_new_tokens=6)
    drawn = e.generate(batch, asks, max_new_tokens=6, sampling=draw, samples=2)
    scores, likely = e.score(batch, asks), e.likelihood(batch, asks)
    parts = e.score(batch.prefix(75), asks)
    for i, (row, ask) in enumerate(zip(rows, asks, strict=True)):
        alone = e.prefill(row)
        assert greedy[i] == e.generate(alone, ask, max_new_tokens=6)
        assert drawn[i] == e.generate(alone, ask, max_new_tokens=6, sampling=draw, samples=2)
        assert tiny.difference(scores[i], e.score(alone, ask)) < 1e-5
        assert tiny.difference(likely[i].logprobs, e.likelihood(alone, ask).logprobs) < 1e-5
        assert tiny.difference(parts[i], e.score(alone.prefix(75), ask)) < 1e-5


def test_transfers_of_an_answer(monkeypatch):
    """Seven arrays go to the devices, and two come back for the first token and every stride."""
    e = engine(devices=2)
    encoded, ask = e.prefill(tiny.ids(200)), tiny.ids(5, seed=1)
    answer: Any = lambda **more: e.generate(  # noqa: E731
        encoded, ask, max_new_tokens=64, ignore_eos=True, **more
    )
    answer()
    puts: list[Any] = []
    gets: list[Any] = []
    put, get = jax.make_array_from_callback, jax.device_get
    monkeypatch.setattr(jax, "make_array_from_callback", noting(puts, put))
    monkeypatch.setattr(jax, "device_get", noting(gets, get))
    with jax.transfer_guard_host_to_device("disallow"):  # none that is not asked for
        assert len(answer().tokens) == 64
        assert len(puts) == 7
        assert len(gets) == 1 + math.ceil(63 / compiled.STRIDE) == 3
        puts.clear()
        answer(sampling=star_jax.Sampling(seed=1, top_p=0.9, repetition_penalty=1.2))
        assert len(puts) == 7


def test_an_answer_is_two_programs():
    """Nothing else is computed on the devices: where all is forgotten, two are compiled."""
    e = engine(devices=2)
    encoded, ask = e.prefill(tiny.ids(200)), tiny.ids(5, seed=1)
    e.generate(encoded, ask, max_new_tokens=64, ignore_eos=True)
    compiled: list[str] = []

    def note(event: str, duration_secs: float, **more: str | int) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(more["fun_name"]).removeprefix("jit(").removesuffix(")"))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        e.generate(encoded, ask, max_new_tokens=64, ignore_eos=True)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert sorted(compiled) == ["ask", "decode"]


def test_devices_go_on_while_the_host_reads(monkeypatch):
    """A stride is called before the one before it is read; behind stop words it is not."""
    e = engine(devices=2)
    e.tokenizer = tiny_letters()
    encoded, ask = e.prefill(tiny.ids(200)), tiny.ids(5, seed=1)
    events: list[str] = []
    programs, extend = compiled.programs, run._extend

    def noted(*args):
        found = programs(*args)
        decode: Any = noting(events, found.decode, lambda *a: "call")
        return found._replace(decode=decode)

    monkeypatch.setattr(compiled, "programs", noted)
    monkeypatch.setattr(run, "_extend", noting(events, extend, lambda *a: "read"))
    e.generate(encoded, ask, max_new_tokens=96, ignore_eos=True)
    assert events == ["call", "read", "call", "read", "call", "read", "read"]
    events.clear()
    e.generate(encoded, ask, max_new_tokens=96, ignore_eos=True, stop=["never"])
    assert events == ["read", "call", "read", "call", "read", "call", "read"]


def tiny_letters():
    from test_generate import Letters

    return Letters()


@pytest.mark.parametrize("length", [127, 129, 300, *further(1, 128)])
def test_logits_of_parts_are_those_of_the_whole(length):
    e = engine(devices=2)
    encoded, ask = e.prefill(tiny.ids(100)), tiny.ids(length, seed=1)
    expected = tiny.literal_score(e.model, tiny.ids(100), ask, 64, 64)[0]
    assert tiny.difference(e.score(encoded, ask), expected) < 1e-4
    if length > 1:
        logprobs = jax.nn.log_softmax(expected)[np.arange(length - 1), ask[1:]]
        assert tiny.difference(e.likelihood(encoded, ask).logprobs, logprobs) < 1e-4
