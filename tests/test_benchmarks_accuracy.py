"""The benchmark of accuracy: its documents, its count of work, its table, and a run of it."""

import flops as jaxpr
import jax.numpy as jnp
import literal
import numpy as np
import pytest
import tiny
from further import further

import star_jax
from benchmarks import accuracy_probes, accuracy_table, documents, phase1_work, variations
from star_jax import Dense, Engine, Star
from star_jax.cache.layer import Plain
from star_jax.prefill import exact
from star_jax.runtime.runtime import Runtime


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("length", [600, 2000, 6000])
def test_a_document_fits_and_has_what_is_asked(length):
    longest = max(map(words, documents.sentences()))
    for index in range(3):
        made = documents.document(index, length, words)
        assert 0 <= length - words(made.text) <= longest
        assert made == documents.document(index, length, words)
        kinds = [probe.kind for probe in made.probes]
        assert kinds == ["needle"] * documents.NEEDLES + ["copy", "prose"]
        for probe in made.probes[: documents.NEEDLES]:
            assert made.text.count(f" is:{probe.answer}.") == 1
        copied = made.probes[-2]
        assert f"{copied.begun}{copied.answer}." in made.text
        assert made.probes[-1].answer.strip() not in made.text


def test_a_length_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="length=100 is too short"):
        documents.document(0, 100, words)
    with pytest.raises(ValueError, match="more than the text has"):
        documents.document(0, 10**6, words)


KINDS = [
    Dense(),
    Star(block_size=64),
    Star(block_size=64, anchor_size=16, halo=32),
    Star(block_size=64, halo=8, correction="delta", stride=16),
    Star(block_size=64, halo=8, correction="tangent", stride=16),
    Star(block_size=64, anchor_size=16, halo=48, correction="both", stride=16),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.label)
def test_attention_is_counted_as_the_definition_has_it(kind):
    """Pairs by the masks written out: all rows, and strided rows over what blocks miss."""
    for length in (256, 250, 50):
        if kind.is_exact:
            expected = length * (length + 1) / 2
        else:
            seen, missed = literal.masks(length, kind)
            expected = seen.sum()
            if kind.correction is not None:
                row = np.arange(length)
                strided = (row % kind.block_size % kind.stride == 0) & (row >= kind.block_size)
                has_tangent = kind.correction in ("tangent", "both")
                expected += missed[strided].sum() * (1 + has_tangent)
                for start in range(kind.block_size, length * has_tangent, kind.block_size):
                    size = min(kind.block_size, length - start)
                    expected += size * -(-size // kind.stride) / 2
        assert phase1_work.pairs(kind, length) == expected


def test_all_else_is_counted_as_the_program_has_it():
    """But that of the last layer only keys and values are computed: XLA drops the rest of it."""
    config, mesh, length = tiny.config(), star_jax.make_mesh(), 96
    runtime = Runtime(config, mesh, "reference", Plain)
    tokens = jnp.zeros((1, length), jnp.int32)
    traced = exact.program(runtime, Dense()).trace(tiny.model(), tokens, tokens)
    attention = 4 * config.num_heads * config.head_dim
    D, F, heads = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    dropped = length * (2 * (2 * D * heads + 3 * D * F)) + attention * length**2
    halves = (config.num_layers - 1) * attention * (length**2 - length * (length + 1) / 2)
    counted = phase1_work.flops(config, Dense(), length)
    assert jaxpr.matmul_flops(traced) - dropped - halves == counted


def test_settings_are_read_with_their_fractions():
    assert accuracy_probes.parse("block=L/8", 1024) == Star(block_size=128, anchor_size=128)
    text = "block=L/8 anchor=b/4 halo=3b/4 correction=both stride=32"
    assert accuracy_probes.parse(text, 1024) == Star(
        block_size=128, anchor_size=32, halo=96, correction="both", stride=32
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blok=3", "'blok' is unknown: use block, anchor"),
        ("halo=3", "has no block="),
        ("block=foo", "'foo' is not a size"),
        ("block=L/0", "'L/0' is not a size"),
        ("block=8,16", "is 2: give each as one --setting"),
        ("block=8 halo=9", "halo='9' is 9 tokens"),
    ],
)
def test_a_setting_that_cannot_be_is_named(text, says):
    with pytest.raises(ValueError, match=says):
        accuracy_probes.parse(text, 1024)


def records():
    losses = {"exact": 0.2, "block=L/8": 0.6, "block=L/8 halo=64": 0.3}
    return [
        {
            "length": 1024,
            "document": i,
            "setting": setting,
            "flops": {"exact": 200, "block=L/8": 100}.get(setting, 101),
            "probes": [
                {"kind": "needle", "nll": nll + 0.01 * i, "right": nll < 0.5},
                {"kind": "copy", "nll": nll, "right": None},
                {"kind": "prose", "nll": 2 + nll, "right": None},
            ],
        }
        for i in range(4)
        for setting, nll in losses.items()
    ]


def test_what_is_won_back_is_a_share_of_the_loss():
    summary = accuracy_table.summarise(records(), range(4))
    star, halo = (
        next(s for s in summary if s["setting"] == n) for n in ("block=L/8", "block=L/8 halo=64")
    )
    assert star["points"] == 0 and halo["points"] == 100
    assert halo["won_needle"] == [75.0, 75.0, 75.0] and halo["won_points"][0] == 100
    assert halo["work"] == 1.01 and star["needles"] == 4
    text = accuracy_table.of(summary)
    assert "| 75% [75, 75]" in text and "halo=64" in text


@pytest.mark.parametrize(
    "star", [(2.0, 3.0, 4.0), (3.0, 0.0, 2.0), (1.0, 0.0, 0.0)], ids=["hardly", "as good", "better"]
)
def test_nothing_is_won_back_where_star_does_not_clearly_lose(star):
    losses = {"exact": (3.0, 0.0, 2.0), "block=L/8": star, "block=L/8 halo=8": (1.0, 2.0, 3.0)}
    some = [
        {**r, "setting": setting, "document": i, "probes": [{**p, "nll": nll} for p in r["probes"]]}
        for r in records()[:1]
        for setting, nlls in losses.items()
        for i, nll in enumerate(nlls)
    ]
    halo = accuracy_table.summarise(some, range(3))[-1]
    assert halo["won_copy"] is halo["won_points"] is None
    assert "%" not in accuracy_table.of([halo])


def test_a_setting_that_lacks_a_document_is_left_out():
    some = [r for r in records() if (r["document"], r["setting"]) != (2, "block=L/8 halo=64")]
    found = {s["setting"]: s for s in accuracy_table.summarise(some, range(4))}
    assert set(found) == {"exact", "block=L/8"}
    found = {s["setting"]: s for s in accuracy_table.summarise(some, range(2))}
    assert found["block=L/8 halo=64"]["won_needle"] == [75.0, 75.0, 75.0]
    assert {s["documents"] for s in found.values()} == {2}


def test_a_run_goes_on_from_its_records(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    asked: list[str] = []

    def probe(engine, *asked_for):
        asked.append(engine.attention.label)
        nll = 1.0 + len(engine.attention.label)
        return [{"kind": kind, "nll": nll, "right": True} for kind in accuracy_table.KINDS]

    monkeypatch.setattr(accuracy_probes, "asked", lambda *a: ([1], []))
    monkeypatch.setattr(accuracy_probes, "_probe", probe)
    engine = Engine(tiny.model(), mesh=star_jax.make_mesh(), attention=Dense())
    names = ("block=L/8", "block=L/8 halo=8")
    kinds = {512: accuracy_probes.kinds_of(names, 512)}
    first = accuracy_probes.run(engine, kinds, range(2), str(path))
    assert len(asked) == 6
    path.write_text(path.read_text()[:-5])  # torn
    again = accuracy_probes.run(engine, kinds, range(2), str(path))
    assert asked[6:] == ["star_b64_a64_h8"] and again == first
    assert [one["setting"] for one in again] == ["exact", *names]

    other = Engine(tiny.model(seed=1), mesh=star_jax.make_mesh(), attention=Dense())
    with pytest.raises(ValueError, match=r"records.jsonl begins with .*this run is of"):
        accuracy_probes.run(other, kinds, range(2), str(path))
    path.write_text("something else\n")
    with pytest.raises(ValueError, match=r"records.jsonl is no file of records"):
        accuracy_probes.run(engine, kinds, range(2), str(path))
    assert path.read_text() == "something else\n"


@pytest.mark.parametrize(
    ("variation", "star"),
    [
        (variations.Variation(block=32), Star(block_size=32)),
        (
            variations.Variation(block=32, anchor=8, halo=4),
            Star(block_size=32, anchor_size=8, halo=4),
        ),
        (
            variations.Variation(block=32, halo=4, stride=5, correction="delta"),
            Star(block_size=32, halo=4, correction="delta", stride=5),
        ),
        (
            variations.Variation(block=32, halo=4, stride=5),
            Star(block_size=32, halo=4, correction="tangent", stride=5),
        ),
        (
            variations.Variation(block=32, halo=24, stride=5, correction="both"),
            Star(block_size=32, halo=24, correction="both", stride=5),
        ),
        (variations.Variation(block=32, passed=32), Dense()),
        *further(
            (variations.Variation(block=32, exact_layers=2), Dense()),
            (variations.Variation(block=32, stride=1, groups=3), Dense()),
            (variations.Variation(block=32, stride=1, groups=0), Dense()),
        ),
    ],
    ids=str,
)
def test_a_variation_is_what_it_says(variation, star):
    """A dense kind that attends as star does; with all that it misses, exactly."""
    e = Engine(tiny.model(), mesh=star_jax.make_mesh(), attention=variation)
    other, query = e.with_attention(star), tiny.ids(9, seed=1)
    context = tiny.ids(192)  # whole chunks: nothing is padded
    expected = other.score(other.prefill(context), query)
    assert tiny.difference(e.score(e.prefill(context), query), expected) < 1e-4


@pytest.mark.parametrize("by", ["random", "norm", "keydiff", "last"])
def test_so_many_keys_of_each_block_are_passed_on(by):
    how = variations.Variation(block=16, passed=3, by=by)
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(50, heads, 8)), "float32") for heads in (4, 2))
    passed = variations._passed(how, q, k, 0.35)
    assert passed.shape == (2, 50)
    for start in (0, 16, 32):
        assert (passed[:, start : start + 16].sum(axis=1) == 3).all()
