"""Other anchors and StreamingLLM equal their definitions, written out without a mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from further import further
from jax.sharding import NamedSharding, PartitionSpec

import star_jax
from star_jax import Dense, Engine, OtherAnchor, Star, Streaming
from star_jax.prefill.anchors import CONTENTS, POSITIONS
from star_jax.prefill.kinds import Kind
from star_jax.runs.ask import Held, ask

BLOCK, LENGTH, TOLERANCE = 32, 150, 1e-4
QUERY = tiny.ids(9, seed=1)


@functools.cache
def model(**fields):
    return tiny.model(**fields)


def engine(attention, *, tensor=1, context=4):
    mesh = star_jax.make_mesh(data=1, context=context, tensor=tensor)
    weights = model()
    if tensor == 1:
        weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))
    return Engine(weights, mesh=mesh, attention=attention)


def close(actual, expected):
    assert tiny.difference(actual, expected) < TOLERANCE


def literal(context, anchor_of, positions_of):
    """The keys and values of each block after a forward of its anchor and itself."""
    kept = []
    for start in range(0, len(context), BLOCK):
        part = context[start : start + BLOCK]
        anchor = anchor_of(start) if start else []
        at = [*(positions_of(start) if start else []), *range(start, start + len(part))]
        _, k, v = tiny.forward(model(), [*anchor, *part], at)
        kept.append(([x[:, len(anchor) :] for x in k], [x[:, len(anchor) :] for x in v]))
    return tuple(
        tuple(jnp.concatenate([part[i][layer] for part in kept], axis=1) for layer in range(2))
        for i in range(2)
    )


def logits_after(context, kept):
    return tiny.forward(model(), QUERY, range(len(context), len(context) + len(QUERY)), kept)[0]


CONTEXT = tiny.ids(LENGTH)
MOST = max(CONTEXT, key=lambda i: (CONTEXT.count(i), -CONTEXT.index(i)))


@pytest.mark.parametrize("anchor", [8, *further(BLOCK)])
@pytest.mark.parametrize(
    ("content", "positions", "tokens", "places"),
    [
        ("previous", "previous", "before", "before"),
        ("first", "previous", "first", "before"),
        ("previous", "first", "before", "first"),
        ("constant", "first", "most", "first"),
        ("query", "first", "query", "first"),
    ],
)
def test_anchors_are_what_they_are_called(anchor, content, positions, tokens, places):
    attention = OtherAnchor(
        block_size=BLOCK, anchor_size=anchor, content=content, positions=positions
    )
    attention = attention.asking(QUERY) or attention
    e = engine(attention)
    ids = {
        "first": lambda start: CONTEXT[:anchor],
        "before": lambda start: CONTEXT[start - anchor : start],
        "most": lambda start: [MOST] * anchor,
        "query": lambda start: [*QUERY, *CONTEXT][:anchor],
    }
    at = {"first": lambda s: range(anchor), "before": lambda s: range(s - anchor, s)}
    kept = literal(CONTEXT, ids[tokens], at[places])
    context = e.prefill(CONTEXT)
    for actual, expected in zip(tiny.kept(e, context), kept, strict=True):
        for one, other in zip(actual, expected, strict=True):
            close(one, other)
    close(e.score(context, QUERY), logits_after(CONTEXT, kept))


@pytest.mark.parametrize("context", [8, *further(1)])
def test_the_first_block_as_anchor_is_star_attention(context):
    ours = engine(OtherAnchor(block_size=BLOCK, anchor_size=24), context=context)
    star = engine(Star(block_size=BLOCK, anchor_size=24), context=context)
    close(ours.score(ours.prefill(CONTEXT), QUERY), star.score(star.prefill(CONTEXT), QUERY))


def test_rows_of_a_batch_have_anchors_of_their_own():
    attention = OtherAnchor(block_size=BLOCK, anchor_size=BLOCK, content="shuffled")
    e = engine(attention, tensor=2, context=4)
    rows = [CONTEXT, tiny.ids(70, seed=3), tiny.ids(20, seed=4)]
    alone = [e.score(e.prefill(row), QUERY) for row in rows]
    for one, other in zip(e.score(e.prefill(rows), QUERY), alone, strict=True):
        close(one, other)


def test_an_anchor_that_reads_the_question_has_contexts_of_its_own():
    attention = OtherAnchor(block_size=BLOCK, anchor_size=16, content="query")
    e = engine(attention)
    assert isinstance(attention, Kind) and isinstance(Streaming(sinks=1, window=2), Kind)
    with pytest.raises(ValueError, match="for one question"):
        e.prefill(CONTEXT)
    queries = [QUERY, tiny.ids(5, seed=2)]
    answers, seconds = ask(e, [CONTEXT, CONTEXT], queries, held=Held(), max_new_tokens=4)
    assert set(seconds) == {"time_prefill", "time_decode", "time_compile"}
    for query, answer in zip(queries, answers, strict=True):
        alone = engine(attention.asking(query))
        assert (
            answer.tokens == alone.generate(alone.prefill(CONTEXT), query, max_new_tokens=4).tokens
        )


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_drawn(content, positions):
    """Drawn again it is the same; tokens come from where they should, and positions from before."""
    attention = OtherAnchor(
        block_size=BLOCK, anchor_size=16, content=content, positions=positions, query=tuple(QUERY)
    )
    for start in range(0, LENGTH, BLOCK):
        one, other = (attention._content(CONTEXT, start, 16, 128).tolist() for _ in range(2))
        assert one == other and len(one) == 16
        if start and content == "earlier":
            assert any(one == CONTEXT[at : at + 16] for at in range(0, start, BLOCK))
        if start and content == "shuffled":
            assert sorted(one) == sorted(CONTEXT[:16]) and one != CONTEXT[:16]
        if start and content == "random":
            assert one != CONTEXT[:16] and set(one) <= set(range(128))
        at = attention._positions(start, 16).tolist()
        assert at == sorted(set(at)) and len(at) == 16
        assert at[-1] < max(start, 16)
        if start > BLOCK and positions == "random":
            assert at[-1] - at[0] > 15
    if content == "earlier":
        longer = tiny.ids(20 * BLOCK)
        drawn = [attention._content(longer, i * BLOCK, 16, 128).tolist() for i in range(1, 20)]
        assert len(set(map(tuple, drawn))) > 5


@dataclasses.dataclass(frozen=True)
class Sinks:
    """Attention of a whole context to sinks and window, as a mask."""

    sinks: int
    window: int

    def start(self, spec, k, v, state):
        return (*state, (k, v))

    def __call__(self, spec, q, k, v, state):
        group = q.shape[2] // k.shape[2]
        keys, values = jnp.repeat(k[0], group, axis=1), jnp.repeat(v[0], group, axis=1)
        token, key = np.arange(q.shape[1])[:, None], np.arange(q.shape[1])
        seen = (key <= token) & ((key < self.sinks) | (key > token - self.window))
        scores = spec.scale * jnp.einsum("tnh,snh->nts", q[0], keys, precision="highest")
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        return jnp.einsum("nts,snh->tnh", weights, values, precision="highest")[None], state


@pytest.mark.parametrize("context", [4, *further(1)])
@pytest.mark.parametrize(
    ("sinks", "window"), [(4, 40), (0, 16), (50, 1), *further((8, 200), (200, 8))]
)
def test_streaming_is_a_mask_and_what_it_keeps(sinks, window, context):
    e = engine(Streaming(sinks=sinks, window=window), context=context)
    tokens, positions = jnp.asarray(CONTEXT)[None], jnp.arange(LENGTH)[None]
    _, state = model().run(tokens, positions, Sinks(sinks, window), ())
    kept = sorted({*range(min(sinks, LENGTH)), *range(max(0, LENGTH - window), LENGTH)})
    pairs = tuple(tuple(pair[i][:, np.asarray(kept)] for pair in state) for i in range(2))
    encoded = e.prefill(CONTEXT)
    close(e.score(encoded, QUERY), logits_after(CONTEXT, pairs))
    assert np.asarray(encoded.groups[0].cache.valid).sum() == len(kept)


def test_streaming_of_a_batch_and_what_it_refuses():
    e = engine(Streaming(sinks=4, window=40))
    rows = [CONTEXT, tiny.ids(70, seed=3), tiny.ids(20, seed=4)]
    alone = [e.score(e.prefill(row), QUERY) for row in rows]
    batch = e.prefill(rows)
    for one, other in zip(e.score(batch, QUERY), alone, strict=True):
        close(one, other)
    longer = e.extend(e.prefill(CONTEXT[:100]), CONTEXT[100:])
    close(e.score(longer, QUERY), alone[0])
    with pytest.raises(NotImplementedError, match="sinks and the window of the whole"):
        batch.prefix(10)
    with pytest.raises(NotImplementedError, match="windows"):
        Streaming(sinks=1, window=1).check(
            tiny.config(model_type="mistral", sliding_window=16), e.mesh
        )


def test_a_window_over_everything_is_exact():
    streaming, dense = engine(Streaming(sinks=0, window=LENGTH)), engine(Dense())
    close(
        streaming.score(streaming.prefill(CONTEXT), QUERY),
        dense.score(dense.prefill(CONTEXT), QUERY),
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"anchor_size": 33}, "above block_size"),
        ({"anchor_size": 0}, "at least 1"),
        ({"content": "last"}, "must be one of"),
        ({"positions": "last"}, "must be one of"),
    ],
)
def test_what_cannot_be(changes, says):
    with pytest.raises(ValueError, match=says):
        OtherAnchor(**({"block_size": 32, "anchor_size": 32} | changes))
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        Streaming(sinks=0, window=0)
