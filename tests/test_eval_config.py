"""The configuration: comma lists, sizes, and one-line refusals."""

import pathlib
from typing import Any

import pytest
import ruler_sources

from star_jax import Dense, Star
from star_jax.eval import config, lists, naming, rows, ruler
from star_jax.eval.suites import SUITES
from star_jax.eval.suites import ruler as ruler_suite
from star_jax.runs import drawing


def make(**changes: Any) -> config.EvalConfig:
    """A configuration, with fields set as the command line sets them: without __init__."""
    result = config.EvalConfig(
        model=config.ModelConfig(path="somewhere"),
        attention=config.AttentionConfig(),
        mesh=config.MeshConfig(),
        data=config.DataConfig(lengths="512,1024"),
        generation=config.GenerationConfig(),
        output_dir="out",
    )
    for name, value in changes.items():
        *path, field = name.split("__")
        target: Any = result
        for part in path:
            target = getattr(target, part)
        assert hasattr(target, field)
        setattr(target, field, value)
    return result


def names(length: int | None = 512, **attention: str) -> list[str]:
    return [row.name for row in rows.rows(config.AttentionConfig(**attention), length)]


@pytest.mark.parametrize(
    ("kind", "block", "anchor", "expected"),
    [
        ("dense", "L/4", "b", ["dense"]),
        ("dense", "nonsense", "-3", ["dense"]),  # dense has neither
        ("star", "128", "b", ["star_b128_a128"]),
        ("star,dense", "128", "0", ["star_b128_a0", "dense"]),
        ("dense, star", " L/4 , L/8", "b,0", [
            "dense", "star_b128_a128", "star_b128_a0", "star_b64_a64", "star_b64_a0"
        ]),
        ("star", "L/4,L/8,100", "b,b/4,16", [
            "star_b128_a128", "star_b128_a32", "star_b128_a16",
            "star_b64_a64", "star_b64_a16",  # b/4 is 16 as well
            "star_b100_a100", "star_b100_a25", "star_b100_a16",
        ]),
        ("star", "L", "L/16", ["star_b512_a32"]),
        ("star", "L/3", "b/3", ["star_b170_a56"]),  # rounded down
        ("star", "128,L/4", "b", ["star_b128_a128"]),
        ("dense,dense", "", "", ["dense"]),
        ("star", "4096", "b", ["star_b4096_a4096"]),  # longer than the context: one block
    ],
)  # fmt: skip
def test_each_combination_is_a_row(kind: str, block: str, anchor: str, expected: list[str]) -> None:
    assert names(kind=kind, block_size=block, anchor_size=anchor) == expected


def test_a_part_of_the_length_follows_the_length() -> None:
    assert names(2048, kind="star", block_size="L/4", anchor_size="b/2") == ["star_b512_a256"]
    assert names(None, kind="star", block_size="64", anchor_size="b/2") == ["star_b64_a32"]


def test_halo_and_correction_are_lists_as_the_sizes() -> None:
    """Without a correction, the stride says nothing."""
    mended: dict[str, str] = {
        "kind": "dense,star",
        "block_size": "64",
        "anchor_size": "b",
        "halo": "0,b/4",
    }
    assert names(None, **mended, correction="none,tangent", stride="16,64") == [
        "dense",
        "star_b64_a64",
        "star_b64_a64_tangent16",
        "star_b64_a64_tangent64",
        "star_b64_a64_h16",
        "star_b64_a64_h16_tangent16",
        "star_b64_a64_h16_tangent64",
    ]


def test_other_anchors_are_without_halo_and_correction() -> None:
    assert names(
        1024,
        kind="star,streaming",
        block_size="L/4",
        anchor_size="b,0",
        anchor_content="first,first@random,previous@previous",
        halo="b/4,0",
        correction="delta",
        sinks="4,8",
        window="L/8",
    ) == [
        "star_b256_a256_h64_delta64",
        "star_b256_a256_first@random",
        "star_b256_a256_previous@previous",
        "star_b256_a256_delta64",
        "star_b256_a0_h64_delta64",
        "star_b256_a0_delta64",
        "streaming_s4_w128",
        "streaming_s8_w128",
    ]


def test_no_anchor_is_a_row_whatever_others_are() -> None:
    sizes = {"block_size": "64", "anchor_size": "b,0"}
    assert names(512, kind="star", anchor_content="random", **sizes) == [
        "star_b64_a64_random@first",
        "star_b64_a0",
    ]
    sizes["anchor_size"] = "b/128"  # rounds to none
    assert names(512, kind="star", anchor_content="first,random", **sizes) == ["star_b64_a0"]
    with pytest.raises(ValueError, match="leaves no anchor whose content"):
        names(512, kind="star", anchor_content="random", **sizes)


def test_what_no_row_reads_may_be_empty() -> None:
    given = config.AttentionConfig(kind="dense,star", block_size="L/4", sinks="", window="")
    assert list(naming.settings(given, 512)) == ["dense", "star_b128_a128"]
    alone = config.AttentionConfig(kind="dense", block_size="", anchor_size="")
    assert naming.settings(alone, 512) == {"dense": ["dense"]}


def test_shares_of_one_name_are_one_row() -> None:
    caches = config.CacheConfig(keep="0.3333333,0.3333334,1,0.9999999", criterion="norm")
    found = rows.rows(config.AttentionConfig(kind="star", block_size="64"), 512, caches)
    assert [row.name for row in found] == ["star_b64_a64_keep0.333333_norm", "star_b64_a64"]


def test_rows_are_the_librarys_kinds_of_attention() -> None:
    found = rows.rows(config.AttentionConfig(block_size="64", anchor_size="8"), None)
    assert [row.attention for row in found] == [Dense(), Star(block_size=64, anchor_size=8)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__path": ""}, "model.path"),
        ({"model__dtype": "int8"}, "model.dtype: 'int8' is unknown; there is bfloat16"),
        ({"output_dir": ""}, "output_dir"),
        (
            {"attention__kind": "sparse"},
            "attention.kind: 'sparse' is unknown; there is dense, ring, ulysses, star",
        ),
        ({"attention__kind": "dense,Star"}, "'Star' is unknown"),
        ({"attention__kind": "dense,,star"}, "attention.kind='dense,,star' has an empty item"),
        ({"attention__kind": ""}, "attention.kind"),
        ({"attention__block_size": "0"}, "block_size='0' is 0 tokens"),
        ({"attention__block_size": "-128"}, "block_size='-128' is -128 tokens"),
        ({"attention__block_size": "L/1024"}, "block_size='L/1024' is 0 tokens at length 512"),
        ({"attention__block_size": ""}, "attention.block_size='' has an empty item"),
        ({"attention__block_size": "128,"}, "has an empty item"),
        ({"attention__block_size": "L/0"}, "'L/0' is not a size"),
        ({"attention__block_size": "b/2"}, "'b/2' is not a size"),
        ({"attention__halo": "0b/4"}, "'0b/4' is not a size"),
        ({"attention__halo": "5b/4"}, "attention.halo='5b/4' is"),
        ({"attention__block_size": "1.5"}, "'1.5' is not a size"),
        ({"attention__block_size": "16K"}, "'16K' is not a size: give tokens, like 1024, or L/4"),
        ({"attention__anchor_size": "-1"}, "anchor_size='-1' is -1: it must be at least 0"),
        (
            {"attention__block_size": "128", "attention__anchor_size": "129"},
            "attention.anchor_size='129' is 129 tokens, above the 128 tokens of",
        ),
        ({"attention__anchor_size": "200,b"}, "'200' is 200 tokens, above the 128"),
        ({"attention__anchor_size": "L"}, "'L' is 512 tokens, above the 128"),
        (
            {"attention__halo": "-1"},
            "attention.halo='-1' is -1 tokens at length 512: it must be from 0",
        ),
        (
            {"attention__halo": "L"},
            "'L' is 512 tokens at length 512: it must be from 0 (none) to the",
        ),
        ({"attention__stride": "b"}, "attention.stride='b' is not a size: give tokens"),
        ({"attention__correction": "gamma"}, "attention.correction='gamma' is unknown: use none"),
        (
            {"attention__correction": "delta", "attention__stride": "0"},
            "attention.stride='0' must be at least 1",
        ),
        ({"attention__implementation": "magic"}, "'magic' is unknown"),
        ({"attention__kind": "anchors"}, "'anchors' is unknown"),
        ({"attention__anchor_content": "last"}, "attention.anchor_content='last' is unknown"),
        ({"attention__anchor_content": "first@last"}, "attention.anchor_content='first@last'"),
        ({"attention__anchor_content": "random", "attention__anchor_size": "0"}, "no anchor whose"),
        ({"attention__kind": "streaming", "attention__window": "0"}, "attention.window='0' 0"),
        ({"attention__kind": "streaming", "attention__sinks": "-1"}, "attention.sinks='-1' is -1"),
        ({"attention__kind": "streaming", "attention__sinks": "b"}, "'b' is not a size"),
        ({"mesh__data": 0}, "mesh.data=0"),
        ({"mesh__context": -1}, "mesh.context=-1"),
        (
            {"data__suite": "glue"},
            "data.suite: 'glue' is unknown; there is babilong, infinitebench, jsonl, ruler",
        ),
        ({"data__suite": "jsonl"}, "data.path is empty"),
        ({"data__suite": "jsonl", "data__path": "{task}.jsonl"}, "needs data.tasks"),
        *(
            ({"data__suite": "jsonl", "data__path": "{task}/x", "data__tasks": task}, says)
            for task, says in (
                ("qa_1,../evil", "data.tasks: '../evil' is not a name"),
                ("..", "data.tasks: '..' is not a name"),
                ("/tmp/x", "data.tasks: '/tmp/x' is not a name"),
                ("a\0", "data.tasks: 'a\\x00' is not a name"),
                ("a,,b", "data.tasks='a,,b' has an empty item"),
            )
        ),
        ({"data__suite": "jsonl", "data__path": "a\0b"}, "data.path='a\\x00b' is not a path"),
        ({"output_dir": "a\0b"}, "output_dir='a\\x00b' is not a path"),
        (
            {"data__tasks": "niah_single_9"},
            "data.tasks: 'niah_single_9' is unknown; there is cwe, ",
        ),
        ({"data__tasks": "niah_single_1,x"}, "'x' is unknown"),
        ({"data__lengths": ""}, "data.lengths is empty"),
        ({"data__lengths": "512,"}, "empty item"),
        ({"data__lengths": "512,1K"}, "'1K' is not a number of tokens"),
        ({"data__lengths": "0"}, "'0' is not a number of tokens above 0"),
        ({"data__num_samples": 0}, "data.num_samples=0"),
        ({"data__num_samples": -2}, "data.num_samples=-2"),
        ({"data__template": "vicuna"}, "data.template: 'vicuna' is unknown"),
        ({"generation__max_new_tokens": -1}, "generation.max_new_tokens=-1"),
        ({"generation__stop": "a,,b"}, "empty stop word"),
        ({"generation__temperature": -1.0}, "generation.temperature=-1.0 must be at least 0"),
        ({"generation__top_p": 0.0}, "generation.top_p=0.0"),
        ({"generation__seed": 2**32}, "generation.seed=4294967296"),
        ({"generation__seed": "5"}, "generation.seed='5' must be an integer"),
        ({"generation__max_new_tokens": True}, "max_new_tokens=True must be an integer"),
        ({"generation__ignore_eos": 1}, "generation.ignore_eos=1 must be True or False"),
        ({"generation__temperature": float("nan")}, "generation.temperature=nan must be a finite"),
        ({"generation__min_p": float("inf")}, "generation.min_p=inf must be a finite"),
        ({"model__path": 3}, "model.path=3 must be a text"),
        ({"data__path": None}, "data.path=None must be a text"),
        ({"data__path": "mine.jsonl"}, "data.path='mine.jsonl' is for the other suites"),
        ({"attention__kind": None}, "attention.kind=None is no comma list"),
        ({"generation__stop": 5}, "generation.stop=5 is no comma list of stop words"),
        ({"generation__stop": ("a", 3)}, "generation.stop=('a', 3) is no comma list of stop words"),
        ({"output_dir": 1}, "output_dir=1 must be a text"),
        ({"data__num_samples": 10**9}, "data.num_samples=1000000000 is above 1000000"),
        ({"generation__top_p": "0.9"}, "generation.top_p='0.9' must be a number"),
        ({"generation__top_k": 5}, "generation.top_k=5 needs a generation.temperature above 0"),
        (
            {"data__suite": "jsonl", "data__path": "x", "data__template": "llama3"},
            "data.template: 'llama3' is unknown; there is base, chat, rendered",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        config.resolve(make(**changes))
    assert says in str(error.value)


def test_a_question_has_a_seed_of_its_own() -> None:
    generation = config.GenerationConfig(temperature=0.5, top_k=3, seed=7)
    sampling = drawing.sampling(generation, [0, 5, -1])
    assert (sampling.temperature, sampling.top_k) == (0.5, 3)
    assert sampling.seed == (7 * 2**32, 7 * 2**32 + 5, 8 * 2**32 - 1)
    assert not drawing.sampling(config.GenerationConfig()).mode.draws


def test_every_kind_is_a_row() -> None:
    resolved = config.resolve(make(attention__kind="ring,dense,ulysses"))
    found = rows.rows(resolved.attention, 128)
    assert [row.name for row in found] == ["ring", "dense", "ulysses"]
    with pytest.raises(ValueError, match="'rings' is unknown; there is dense, ring, ulysses, star"):
        config.resolve(make(attention__kind="rings"))


def test_a_block_size_is_checked_at_every_length() -> None:
    config.resolve(make(attention__block_size="L/4", attention__anchor_size="200,0",
                        data__lengths="1024"))  # fmt: skip
    with pytest.raises(ValueError, match="at length 512"):
        config.resolve(make(attention__block_size="L/4", attention__anchor_size="200,0",
                            data__lengths="1024,512"))  # fmt: skip


def test_json_lines_need_no_lengths() -> None:
    """What L is follows from the questions, so only what no length could mend is refused here."""
    jsonl = {"data__suite": "jsonl", "data__path": "x.jsonl"}
    for lengths in ("", "512,1024"):  # those of a config file that was made for RULER
        resolved = config.resolve(make(**jsonl, data__lengths=lengths))
        assert SUITES[resolved.data.suite].lengths(resolved.data) == (None,)
        assert rows.needs_length(resolved.attention)
    with pytest.raises(ValueError, match=r"block_size='L/4' needs data.lengths"):
        rows.rows(resolved.attention, None)
    with pytest.raises(ValueError, match="'1K' is not a size"):
        config.resolve(make(**jsonl, attention__block_size="1K"))
    for sizes in ({"anchor_size": "L/16"}, {"halo": "L/32"}):  # fit what a file may well have
        fits = {f"attention__{name}": size for name, size in sizes.items()}
        config.resolve(make(**jsonl, attention__block_size="1024", **fits))
    with pytest.raises(ValueError, match=r"anchor_size='L/2' is .* above"):
        config.resolve(make(**jsonl, attention__block_size="L/4", attention__anchor_size="L/2"))
    given = make(**jsonl | {"data__path": "{length}.jsonl"}, data__lengths="512,1024")
    assert SUITES["jsonl"].lengths(config.resolve(given).data) == (512, 1024)
    assert not rows.needs_length(config.AttentionConfig(kind="dense"))
    assert not rows.needs_length(config.AttentionConfig(block_size="64", anchor_size="b/4"))
    assert rows.needs_length(config.AttentionConfig(block_size="64", anchor_size="0,L/8"))


def test_a_config_file_may_give_tuples() -> None:
    given = make(data__lengths=(512, 1024), data__tasks=("niah_single_1",))
    given.generation.stop = ("a,b", "c")  # type: ignore[assignment]
    given.attention.block_size = 64  # type: ignore[assignment]
    given = config.resolve(given)
    assert SUITES[given.data.suite].lengths(given.data) == (512, 1024)
    assert SUITES["ruler"].settings(given.data)["data.tasks"] == ["niah_single_1"]
    assert drawing.stop_words(given.generation.stop) == ("a,b", "c")


def test_defaults(tmp_path: pathlib.Path) -> None:
    given = config.resolve(make(data__sources=str(ruler_sources.write(tmp_path))))
    assert SUITES["ruler"].settings(given.data)["data.tasks"] == sorted(ruler.NAMES)
    assert SUITES["ruler"].settings(given.data)["data.compat"] == "exact"
    assert lists.num_samples(given.data, default=7) == 7
    assert ruler_suite.SAMPLES == 500
    assert drawing.stop_words("") == ()
    assert drawing.stop_words("a,") == drawing.stop_words("a") == ("a",)
    assert drawing.stop_words(",") == ()
    assert drawing.stop_words(" a,<|eot_id|>") == (" a", "<|eot_id|>")


def test_samples_are_those_asked_for() -> None:
    assert lists.num_samples(config.DataConfig(num_samples=10), default=7) == 10


def test_a_row_of_each_cache():
    """Exact attention over what was compressed is no exact row."""
    given = config.AttentionConfig(kind="dense,star", block_size="64", anchor_size="8")
    found = rows.rows(given, None, config.CacheConfig(dtype="model,int8"))
    assert [row.name for row in found] == ["dense", "dense_int8", "star_b64_a8", "star_b64_a8_int8"]
    assert [row.is_exact for row in found] == [True, False, False, False]
    assert naming.described(found[1]) == {"kind": "dense", "is_exact": False, "cache": "int8"}
    assert naming.settings(given, None, config.CacheConfig(dtype="fp8")).keys() == {
        "dense_fp8",
        "star_b64_a8_fp8",
    }


def test_an_unknown_cache_is_refused():
    with pytest.raises(
        ValueError, match=r"cache\.dtype: 'int4' is unknown; there is model, int8, fp8"
    ):
        config.resolve(make(cache__dtype="int4"))
