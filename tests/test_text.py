"""Real kinds of tokenizer files: ids are the file's, a query and an answer go on, text is text."""

import itertools
import json
import pathlib
import warnings
from typing import Any

import pytest
import tokenizer_files
import tokenizers
from further import further
from odd_files import ODD
from test_tokenizer import load
from tokenizer_files import KINDS

from star_jax.generate.stopping import Limits, Row
from star_jax.text.tokenizer import Prompt, Tokenizer

TEXTS = [
    "The sky",
    " The sky is blue",
    "  The sky.\n\n The  sky",
    "sky\n",
    "naïve 中 é😀",
    "a: b, c\n\n\nThe",
    "",
    " ",
    "\n",
]
CLASSES: list[dict[str, Any]] = [
    {},
    {"tokenizer_class": "LlamaTokenizer"},
    {"tokenizer_class": "LlamaTokenizer", "legacy": True},
    {"tokenizer_class": "LlamaTokenizerFast", "legacy": False, "add_prefix_space": False},
    {"tokenizer_class": "GPT2Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
]
kinds = pytest.mark.parametrize("kind", KINDS)
SHOWN = ["byte-level", "dummy prefix", "metaspace first"]


def made(directory: pathlib.Path, kind: str, **options: Any) -> tuple[Tokenizer, Any]:
    """Our tokenizer, and the `tokenizers` library's of the same file."""
    tokenizer_files.save(directory, kind, **options)
    file = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    return load(directory), file


@pytest.mark.parametrize("given", CLASSES)
@kinds
def test_ids_are_those_of_the_file(tmp_path: pathlib.Path, kind: str, given: Any) -> None:
    """Whatever class tokenizer_config.json names, and whether it is legacy."""
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
    ours, file = made(tmp_path, kind, **given)
    for text in TEXTS:
        assert ours.encode_context(text) == file.encode(text).ids
    for text in ("<s>The sky", "<s><|user|> The sky</s>The", "The</s> sky"):
        expected = file.encode(text, add_special_tokens=False).ids
        bos = [] if text.startswith("<s>") else [ours.bos_token_id]
        assert ours.encode_context(text, special=True) == bos + expected


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("said", [True, False, None, "absent"])
@kinds
def test_what_is_said_of_bos_is_done(
    tmp_path: pathlib.Path, kind: str, said: Any, adds_bos: bool
) -> None:
    config = {} if said == "absent" else {"add_bos_token": said}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ours, file = made(tmp_path, kind, adds_bos=adds_bos, **config)
    wanted = adds_bos if said in (None, "absent") else said
    bos = [ours.bos_token_id] if wanted else []
    plain = file.encode("The sky", add_special_tokens=False).ids
    assert ours.encode_context("The sky") == bos + plain
    assert ours.count_added("The sky") == len(bos)
    marked = Prompt.template("<s>") + "The sky"
    assert ours.encode_context(marked).count(file.token_to_id("<s>")) == 1
    unsaid = said in (None, "absent") and not adds_bos
    assert [str(w.message)[:42] for w in found] == [
        "star_jax: the tokenizer names a BOS, '<s>'"
    ] * unsaid


@kinds
def test_context_and_query_are_the_whole(tmp_path: pathlib.Path, kind: str) -> None:
    """Unless one token of the whole reaches over the border."""
    (ours, file), equal = made(tmp_path, kind), 0
    for context, query in itertools.product(["The sky.\n", "The sky:", "a"], TEXTS):
        whole = file.encode(context + query)
        if not any(start < len(context) < end for start, end in whole.offsets):
            assert ours.encode_context(context) + ours.encode_query(query) == whole.ids
            equal += 1
    assert equal >= 20


@kinds
def test_a_context_may_end_in_a_special_token(tmp_path: pathlib.Path, kind: str) -> None:
    """A special token of a template; some tokenizers begin a text anew behind it."""
    ours, file = made(tmp_path, kind)
    for query in ("User: The sky", " The", "\nsky", "</s>The"):
        context = "The sky</s>"
        whole = file.encode(context + query).ids
        found = ours.encode_query(query, after=context, special=True)
        assert ours.encode_context(context, special=True) + found == whole


@pytest.mark.parametrize("kind", SHOWN + further(*(kind for kind in KINDS if kind not in SHOWN)))
def test_an_answer_is_shown_as_it_goes_on(tmp_path: pathlib.Path, kind: str) -> None:
    """Its first space too, in streams as well; and stop words that begin with one are found."""
    ours, file = made(tmp_path, kind)
    bos = [ours.bos_token_id]
    for before, text in itertools.product(
        ["The sky:", "a\n", "sky."],
        [" The sky", "The sky", " naïve 中é", "\n The", "  sky", "😀 sky"],
    ):
        query, answer = ours.encode_query(before), ours.encode_query(text)
        together = file.decode(bos + query + answer, skip_special_tokens=True)
        for stride, stop in ((1, ()), (2, (text[:4],)), (1, (text[2:],)), (99, (text[:4],))):
            row, sent = Row(Limits(len(answer), stop, ()), ours.decode, ours.probe), ""
            for i in range(0, len(answer), stride):
                if row.stop_reason is None:
                    row.extend(answer[i : i + stride], [0.0] * len(answer[i : i + stride]))
                    assert row.settled().startswith(sent)
                    sent = row.settled()
            shown = row.answer().text
            assert shown == sent == (text.split(stop[0])[0] if stop else text)
            assert row.stop_reason == ("stop" if stop else "length")
        assert together.endswith(before + text)
        assert ours.decode(query + answer) == before + text == ours.decode(query) + text


@kinds
def test_bytes_that_are_no_character_yet_are_held_back(tmp_path: pathlib.Path, kind: str) -> None:
    ours, _ = made(tmp_path, kind)
    answer = ours.encode_query("😀 sky")
    row = Row(Limits(9, (), ()), ours.decode, ours.probe)
    texts = []
    for token in answer:
        row.extend([token], [0.0])
        texts.append(row.settled())
    assert texts[:3] == ["", "", ""] and texts[-1] == "😀 sky"
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)


@kinds
def test_what_users_spell_is_text(tmp_path: pathlib.Path, kind: str) -> None:
    ours, file = made(tmp_path, kind)
    control = {file.token_to_id(token) for token in tokenizer_files.SPECIAL}
    for text in ("The</s> sky", "<s>", "<|user|> a</s>", "</s>The", "<unk> sky", "</</s>s>"):
        ids = ours.encode_context(text)
        assert ids[0] == ours.bos_token_id and control.isdisjoint(ids[1:])
        query = ours.encode_query(text)
        assert control.isdisjoint(query)
        assert ours.decode(ours.encode_query("a") + query) == "a" + text
        assert ours.count(text) >= len(query)
        template = Prompt.template("</s>") + text + Prompt.template("<|user|>")
        ids = ours.encode_context(template)[1:]
        assert [i for i in ids if i in control] == [
            file.token_to_id("</s>"),
            file.token_to_id("<|user|>"),
        ]


@kinds
def test_parts_are_tokenised_as_the_whole(tmp_path: pathlib.Path, kind: str) -> None:
    """At borders between a template and its users too; with a spelled token elsewhere as well."""
    ours, file = made(tmp_path, kind)
    for head, text, tail in itertools.product(
        ("<s><|user|>\n", "<|user|>", "T", "a "), ("he sky", " The", "\n\nThe.\n"), ("\n", "</s>")
    ):
        parts = Prompt.template(head) + text + Prompt.template(tail)
        whole = file.encode(head + text + tail, add_special_tokens=False).ids
        assert ours.encode_query(parts, after=Prompt.template("</s>"))  # is not refused
        bos = [] if head.startswith("<s>") else [ours.bos_token_id]
        assert ours.encode_context(parts) == bos + whole
        # Made to go the other way: a user's token at the end, whose ids are cut off.
        longer = ours.encode_context(parts + Prompt.template("</s>") + "</s>")
        assert longer[: len(bos + whole)] == bos + whole


BAD = [None, 5, b"text", ["a", "b"], ("a",), ["a"], {"a": 1}]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_text_is_refused_by_name(tmp_path: pathlib.Path, bad: Any) -> None:
    ours, _ = made(tmp_path, "byte-level", chat_template="{{ messages[0].content }}")
    calls: dict[str, Any] = {
        "encode_context": ours.encode_context,
        "encode_query": ours.encode_query,
        "count": ours.count,
        "count_added": ours.count_added,
        "spans": lambda text: ours.spans(text, [(0, 1)]),
        "offsets": ours.offsets,
        "after": lambda text: ours.encode_query("a", after=text),
        "answer_prefix": lambda text: ours.chat("a", "b", answer_prefix=text),
        "context": lambda text: ours.chat(text, "b"),
        "query": lambda text: ours.chat("a", text),
    }
    if bad is not None:
        calls["system"] = lambda text: ours.chat("a", "b", system=text)
        calls["date_string"] = lambda text: ours.chat("a", "b", date_string=text)
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name}.* one text .*not {type(bad).__name__}"):
            call(bad)


def test_text_that_is_not_valid_and_ids_below_zero_are_refused(tmp_path: pathlib.Path) -> None:
    ours, _ = made(tmp_path, "byte-level")
    with pytest.raises(ValueError, match="encode_context takes valid text"):
        ours.encode_context("a\ud800")
    with pytest.raises(ValueError, match="-3 is negative"):
        ours.decode([1, -3])


def test_a_tokenizer_that_does_not_fit_its_model(tmp_path: pathlib.Path) -> None:
    ours, file = made(tmp_path, "no dummy prefix")
    size = file.get_vocab_size()
    assert ours.problems(vocab_size=size, eos_token_ids=(2,)) == []
    assert ours.problems(vocab_size=size + 64, eos_token_ids=(1, 2)) == []
    (beyond,) = ours.problems(vocab_size=size - 1, eos_token_ids=(2,))
    assert "1 tokens beyond" in beyond and "'▁▁'" in beyond
    (eos,) = ours.problems(vocab_size=size, eos_token_ids=(0,))
    assert "'</s>' (2), does not end an answer" in eos


def test_files_that_disagree_on_bos_are_warned_about(tmp_path: pathlib.Path) -> None:
    """One BOS at most, whoever is right."""
    used = {None: "'<s>' is used", True: "'</s>' is used", False: "neither is used"}
    for add, ids in ((None, [1]), (True, [2]), (False, [])):
        tokenizer_files.save(tmp_path, "no dummy prefix", bos_token="</s>", add_bos_token=add)
        with pytest.warns(UserWarning, match=f"BOS is '</s>' in.*'<s>' before texts: {used[add]}"):
            ours = load(tmp_path)
        assert ours.encode_context("The") == ids + ours.encode_query("The")


def test_ids_that_have_two_names_are_warned_about(tmp_path: pathlib.Path) -> None:
    """Special ones as well."""
    for special in (True, False):
        named = {"1": {"content": "<other>", "special": special}}
        tokenizer_files.save(tmp_path, "no dummy prefix", added_tokens_decoder=named)
        with pytest.warns(UserWarning, match="id 1 is '<other>' in .*, and '<s>' in .*is used"):
            ours = load(tmp_path)
        assert ours.bos_token_id == 1


@pytest.mark.parametrize("template", [{"default": "x"}, 5, [5], True, "\ud800"])
def test_a_chat_template_that_is_no_text_is_none(tmp_path: pathlib.Path, template: Any) -> None:
    tokenizer_files.save(tmp_path, "byte-level", chat_template=template)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = load(tmp_path)
    assert template == [5] or "chat_template is no text" in str(caught[-1].message)
    assert ours.encode_query("The")
    with pytest.raises(ValueError, match="no chat template"):
        ours.chat("a", "b")


def test_dropout_of_merges_is_for_training(tmp_path: pathlib.Path) -> None:
    expected = made(tmp_path, "byte-level")[0].encode_query("The sky is blue" * 9)
    path = tmp_path / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["dropout"] = 0.5
    path.write_text(json.dumps(fields))
    assert load(tmp_path).encode_query("The sky is blue" * 9) == expected


def test_a_class_that_finds_no_vocabulary_is_refused(tmp_path: pathlib.Path) -> None:
    """`transformers` makes an empty tokenizer of it, and all text would be lost."""
    _, file = made(tmp_path, "byte-level")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(file.get_vocab()))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"})
    )
    with pytest.raises(ValueError, match=r"LlamaTokenizer of .* tokens .*save a tokenizer\.json"):
        load(tmp_path)


def test_files_without_tokenizer_json_are_read_by_transformers(tmp_path: pathlib.Path) -> None:
    """And code beside them is not run, nor is anybody asked."""
    _, file = made(tmp_path, "byte-level")
    (tmp_path / "tokenizer.json").unlink()
    model = json.loads(file.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(file.get_vocab()))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    path = tmp_path / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"tokenizer_class": "GPT2Tokenizer"}))
    other = load(tmp_path)
    for text in ("The sky", " is blue\n"):
        assert other.decode(other.encode_query(text)) == text
    assert other.encode_query("The</s>")[-1] != other.eos_token_id
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a checkpoint was run')")
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    path.write_text(json.dumps(fields | code))
    with pytest.raises(ValueError, match=r"unreadable tokenizer \(.*trust_remote_code") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "[" * 100_000, "not read: its JSON is nested too deep"),
        ("special_tokens_map.json", '{"a": 1, "a": 2}', r"not unique: duplicate \['a'\]"),
        ("tokenizer_config.json", '{"eos_token": "\\ud800"}', "eos_token is no token"),
        ("tokenizer_config.json", "[1]", "not a JSON object but a list"),
        ("tokenizer_config.json", '{"add_bos_token": "yes"}', "add_bos_token='yes' must be"),
        ("tokenizer_config.json", '{"bos_token": 7}', "bos_token is no token"),
        ("tokenizer_config.json", '{"add_bos_token": true}', "bos_token names no token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"a": {}}}', "has 'a', which is no id"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"9999": {"content": "\\u001b[2J", "special": true}}}',
            r"'\\x1b\[2J' has the id 9999",
        ),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"%s": {"content": "a"}}}' % ("9" * 5000),
            "tokenizer_config.json: added_tokens_decoder has '9+[.]{3}9+', which is no id",
        ),
        ("tokenizer.json", "[" * 100_000, "unreadable tokenizer"),
    ],
)
def test_files_that_cannot_be_are_an_error_in_one_line(
    tmp_path: pathlib.Path, name: str, text: str, message: str
) -> None:
    tokenizer_files.save(tmp_path, "byte-level", adds_bos=False)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"],
)
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_is_not_taken_for_nothing(
    tmp_path: pathlib.Path, name: str, odd: str
) -> None:
    tokenizer_files.save(tmp_path, "byte-level", adds_bos=False)
    (tmp_path / name).unlink(missing_ok=True)
    ODD[odd](tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: not a regular file"):
        load(tmp_path)


def test_templates_by_name_are_looked_through(tmp_path: pathlib.Path) -> None:
    templates = [{"name": ["odd"]}, {"name": "default", "template": "{{ messages[0].content }}"}]
    ours, _ = made(tmp_path, "byte-level", chat_template=templates)
    assert [str(part) for part in ours.chat("a", "b")] == ["a", "b"]


def test_two_files_that_name_two_tokens_are_a_warning(tmp_path: pathlib.Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|user|>"}')
    with pytest.warns(UserWarning, match="eos_token is '<|user|>' in special_tokens_map.json, and"):
        ours, file = made(tmp_path, "byte-level")
    assert ours.eos_token_id == file.token_to_id("</s>")


def test_a_name_without_a_token_is_a_problem(tmp_path: pathlib.Path) -> None:
    ours, _ = made(tmp_path, "byte-level", eos_token="<end\x1b>")
    (said,) = ours.problems(vocab_size=1000, eos_token_ids=[1])
    assert said == r"the tokenizer's eos_token, '<end\x1b>', is no token of its vocabulary"


@pytest.mark.parametrize("ids", [[1.5], "ab", None, 5, [None], [[1]], [2**40], [-1], [3, -(2**70)]])
def test_what_is_no_id_is_not_decoded(tmp_path: pathlib.Path, ids: Any) -> None:
    ours, _ = made(tmp_path, "dummy prefix")
    with pytest.raises(ValueError, match=r"^decode takes"):
        ours.decode(ids)


def test_a_text_on_which_a_tokenizer_fails_is_an_error(tmp_path: pathlib.Path) -> None:
    tokenizer_files.save(tmp_path, "unigram always")
    path = tmp_path / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"] |= {"unk_id": None, "byte_fallback": False}
    path.write_text(json.dumps(fields))
    ours = load(tmp_path)
    for text in ("The Q", Prompt.template("<s>") + "</s> Q"):
        with pytest.raises(
            ValueError, match=r"the tokenizer fails on a text .*`unk_id` is missing"
        ):
            ours.encode_context(text)


def test_a_prompt_is_a_text_that_knows_who_wrote_it() -> None:
    """It is compared, searched and shown as text; a sum keeps the parts, on either side."""
    prompt = "user " + Prompt.template("<s>") + " more"
    assert isinstance(prompt, str) and prompt == "user <s> more" and f"{prompt}" == "user <s> more"
    assert prompt.parts == (("user ", False), ("<s>", True), (" more", False))
    assert json.loads(json.dumps(prompt)) == "user <s> more"
    assert list(prompt.users()) == [(0, 5), (8, 13)]
    assert Prompt.of(str(prompt), "it").parts == (("user <s> more", False),)
