"""A context is answered by the model that encoded it, and by no other."""

import dataclasses
import json
from typing import Any

import fake_engine
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from star_jax import Engine, Star, models
from star_jax.checkpoint import fingerprint
from star_jax.models import Decoder
from star_jax.runtime.placement import place

QUERY = tiny.ids(5, seed=1)
# Axes of `make_mesh`: one device, contexts and batches shared, weights shared, heads repeated.
MESHES: list[dict[str, Any]] = [
    {},
    {"data": 2, "context": 2},
    {"context": 2, "tensor": 2},
    {"data": 2, "tensor": 4},
    {"context": 8},
]


def changed(model: Decoder, name: str, change) -> Decoder:
    """The model with one of its weights changed; names are those of checkpoints."""
    names = models.build(model.config, lambda this, *_: this)

    def maybe(array, this):
        return jnp.asarray(change(np.array(array)), array.dtype) if this == name else array

    return jax.tree.map(maybe, model, names)


def digest(model: Decoder, **axes: Any) -> str:
    mesh = star_jax.make_mesh(**axes)
    return fingerprint.Weights().digest(place(model, mesh), mesh)


def swap_elements(x):
    x.reshape(-1)[[3, 40]] = x.reshape(-1)[[40, 3]]
    return x


def flip_last_bit(x):
    x.view(np.uint32).reshape(-1)[-1] ^= 1
    return x


def set_first(value):
    def change(x):
        x.reshape(-1)[0] = value
        return x

    return change


K = "model.layers.1.self_attn.k_proj.weight"


def test_every_bit_of_every_weight_counts():
    model = tiny.model()
    names = []
    models.build(model.config, lambda name, *_: names.append(name))
    digests = {digest(model)}
    for name in names:
        digests.add(digest(changed(model, name, flip_last_bit)))
    assert len(digests) == 1 + len(names)
    payload = np.array([0x7FC00001], np.uint32).view(np.float32)[0]
    for change in (
        swap_elements,
        lambda x: np.roll(x, 1, axis=0),
        lambda x: x.reshape(-1)[::-1].reshape(x.shape),
        set_first(0.0),
        set_first(-0.0),
        set_first(np.nan),
        set_first(payload),
    ):
        digests.add(digest(changed(model, K, change)))
    assert len(digests) == 1 + len(names) + 7


def test_swapped_weights_differ():
    """They have the same shape, in one layer or in two."""
    model = tiny.model()
    layers = model.layers
    before = digest(model)
    pairs: list[tuple[Any, Any]] = [
        (layers[0].mlp.gate_weight, layers[0].mlp.up_weight),
        (layers[0].attention.k_weight, layers[1].attention.k_weight),
        (model.embedding, model.head),
    ]
    for a, b in pairs:
        a[...], b[...] = b[...], a[...]
        assert digest(model) != before
        a[...], b[...] = b[...], a[...]
    assert digest(model) == before


@pytest.mark.parametrize("dtype", ["bfloat16", *further("float32", "float16")])
def test_the_mesh_changes_nothing(dtype):
    """Nor do key/value heads that it repeats: two heads on four devices."""
    model = tiny.model(dtype=dtype)
    assert len({digest(model, **axes) for axes in MESHES}) == 1
    other = changed(model, K, swap_elements)
    assert len({digest(other, **axes) for axes in MESHES}) == 1
    assert digest(other) != digest(model)


def test_many_weights_on_many_devices_are_hashed():
    """Simulated devices wait for each other for ever where many all-reduces are in flight."""
    model = tiny.model(num_hidden_layers=12)
    assert digest(model, data=2, tensor=4) == digest(model)


def test_dtypes_differ():
    same = {digest(tiny.model(dtype=dtype)) for dtype in ("float32", "bfloat16", "float16")}
    assert len(same) == 3


def engine(model=None, **options):
    mesh = options.pop("mesh", None) or star_jax.make_mesh(context=2)
    options = {"attention": Star(block_size=32), **options}
    return Engine(model or tiny.model(), mesh=mesh, **options)


@pytest.fixture(scope="module")
def encoded():
    e = engine()
    return e, e.prefill(tiny.ids(100)), e.prefill([tiny.ids(70), tiny.ids(100)])


def poke(model):
    return changed(model, K, set_first(0.25))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: engine(tiny.model(seed=1)), r"weights '\w{16}' there, '\w{16}' here"),
        (lambda: engine(poke(tiny.model())), "weights"),
        (lambda: engine(tiny.model(dtype="bfloat16")), "dtype 'float32' there, 'bfloat16' here"),
        (lambda: engine(tiny.model(num_hidden_layers=1)), "config.num_layers 2 there, 1 here"),
        (
            lambda: engine(tiny.model(rope_theta=5000.0)),
            "another model .* config.rope.theta 10000.0 there, 5000.0 here; encode",
        ),
        (lambda: engine(tiny.model(rms_norm_eps=1e-6)), "rms_norm_eps 1e-05 there, 1e-06 here"),
    ],
)
def test_another_model_is_refused(encoded, other, message):
    _, context, batch = encoded
    e = other()
    for call in (
        lambda: e.generate(context, QUERY, max_new_tokens=2),
        lambda: e.score(context, QUERY),
        lambda: e.generate(batch, QUERY, max_new_tokens=2),
        lambda: e.generate(context.prefix(50), QUERY, max_new_tokens=2, samples=2),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_same_model_is_welcome(encoded):
    """Loaded again, with another attention, or with other EOS of the engine."""
    e, context, batch = encoded
    expected = e.generate(context, QUERY, max_new_tokens=4)
    exact = e.with_attention(star_jax.Ring())
    for other in (engine(), exact, exact.with_attention(star_jax.Dense())):
        assert other.generate(context, QUERY, max_new_tokens=4) == expected
        assert other.generate(batch, QUERY, max_new_tokens=4)[1] == expected
    ring = exact.prefill(tiny.ids(100))
    assert ring.fingerprint.attention == "Ring()" != context.fingerprint.attention
    assert e.generate(ring, QUERY, max_new_tokens=4).tokens


def test_weights_that_were_changed_in_place_are_another_model():
    e = engine(tiny.model(seed=5))
    context = e.prefill(tiny.ids(40, seed=2))
    e.model.norm[...] = e.model.norm[...] * 2
    with pytest.raises(ValueError, match="weights"):
        e.score(context, QUERY)


def test_another_mesh_keeps_its_message(encoded):
    _, context, _ = encoded
    with pytest.raises(ValueError, match="another mesh"):
        engine(tiny.model(seed=1), mesh=star_jax.make_mesh(context=4)).score(context, QUERY)


def test_weights_are_hashed_once(monkeypatch):
    """For all engines that share them; and before the second question nothing is hashed."""
    count = []
    hash_all = fingerprint._digest

    def counted(*args):
        count.append(args)
        return hash_all(*args)

    monkeypatch.setattr(fingerprint, "_digest", counted)
    e = engine()
    assert not count
    context = e.prefill(tiny.ids(100))
    for other in (e, e.with_attention(star_jax.Dense())):
        other.generate(context, QUERY, max_new_tokens=2)
        other.prefill(tiny.ids(100))
    assert len(count) == 1


def test_tokenizers_are_compared(tmp_path):
    """Equal files are equal; where one engine has no tokenizer, ids are all that counts."""
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        fake_engine.save_checkpoint(tmp_path / name, weights=True)
    path = tmp_path / "other" / "tokenizer.json"
    fields = json.loads(path.read_text())
    vocab = fields["model"]["vocab"]
    a, b = list(vocab)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    path.write_text(json.dumps(fields))
    mesh = star_jax.make_mesh(context=2)
    load = {
        name: Engine.from_pretrained(
            tmp_path / name, mesh=mesh, dtype="float32", attention=Star(block_size=32)
        )
        for name in ("one", "same", "other")
    }
    context = load["one"].prefill(tiny.ids(100))
    expected = load["one"].generate(context, QUERY, max_new_tokens=3)
    assert load["same"].generate(context, QUERY, max_new_tokens=3) == expected
    with pytest.raises(ValueError, match=r"tokenizer 'Tokenizer \w+' there, 'Tokenizer \w+' here"):
        load["other"].generate(context, QUERY, max_new_tokens=3)
    silent = Engine(load["one"].model, mesh=mesh, attention=Star(block_size=32))
    assert silent.generate(context, QUERY, max_new_tokens=3).tokens == expected.tokens
    assert load["other"].generate(silent.prefill(tiny.ids(100)), QUERY, max_new_tokens=3)


def test_contexts_and_scores_are_equal_to_themselves_alone(encoded):
    e, context, batch = encoded
    again = e.prefill(tiny.ids(100))
    assert context == context and context != again and context not in [batch, again]
    assert len({context, again, batch}) == 3
    scores = e.score_document(tiny.ids(100))
    assert scores == scores and scores != e.score_document(tiny.ids(100))
    assert {scores: 1}[scores] == 1
    assert repr(scores) == f"Scores(99 tokens, perplexity {scores.perplexity:.6g})"


def test_a_context_shows_itself_in_one_line(encoded):
    e, context, batch = encoded
    assert repr(context) == (
        "Context(100 tokens, Star(block_size=32, anchor_size=32), float32, "
        "mesh data=1 context=2 tensor=1)"
    )
    assert repr(batch).startswith("ContextBatch(2 rows of 70, 100 tokens, Star(")
    assert repr(batch.prefix(80)).startswith("ContextBatch(2 rows of 70, 80 tokens")
    many = repr(e.prefill([[1]] * 30))
    assert many.startswith("ContextBatch(30 rows of 1, 1,") and "\n" not in many and len(many) < 200
    assert dataclasses.is_dataclass(context.fingerprint)
    assert repr(e.config) in repr(context.fingerprint)
