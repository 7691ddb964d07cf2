"""Chat templates cut into context and query, and tokenizers that put a space before a text."""

import datetime
import pathlib
from typing import Any

import pytest
import tokenizers
import transformers
from test_tokenizer import load, save
from tokenizers import decoders, models, normalizers, pre_tokenizers

from star_jax.text.tokenizer import Tokenizer

# Templates in the style of published ones; what a model's own `apply_chat_template` would render.
LLAMA3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}"
    "{% set system = '' %}{% endif %}{% for m in messages %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] | trim }}"
    "{{ ' [/INST]' }}"
    "{% endfor %}"
)
TEMPLATES = {
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "chatml": CHATML,
    "gemma": GEMMA,
    "llama2": LLAMA2,
}
HEADERS = {  # with which the assistant's turn begins
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": " [/INST]",
    "chatml": "<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
    "llama2": " [/INST]",
}
# Leading and trailing space, which some of them trim; and what looks like the marker.
TEXTS = [
    ("The sky is blue.\n", "What is blue?"),
    ("  indented\n\n", "and a question \n"),
    ("[[cut0]] and [[cut1]]\n", "[[cut0]]?"),
    ("{{ bos_token }} {% if %}\n", "what's {that}?"),
]


def tokenizer(directory: pathlib.Path, template: str | None, *, adds: str | None) -> Tokenizer:
    save(directory, adds=adds)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    theirs.chat_template = template
    theirs.save_pretrained(directory)
    return load(directory)


@pytest.mark.parametrize("adds", ["<s> $A", None])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_parts_are_the_template_rendered_whole(tmp_path: Any, name: str, adds: Any) -> None:
    ours = tokenizer(tmp_path, TEMPLATES[name], adds=adds)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for context, query in TEXTS:
        for system in (None, "Be brief."):
            if system and name in ("mistral", "gemma"):
                with pytest.raises(ValueError, match=r"template fails: .*(roles? |System role)"):
                    ours.chat(context, query, system=system)
                continue
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": context + query})
            whole = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            before, after = ours.chat(context, query, answer_prefix=" It is", system=system)
            assert str(before + after) == whole + " It is"
            text, is_template = before.parts[-1]
            assert text.lstrip() == context.lstrip() and not is_template
            assert str(after).startswith(query.rstrip())
            assert str(after).endswith(HEADERS[name] + " It is")
            # One BOS, from the template or from the tokenizer, or none where neither has one.
            ids: list[int] = ours.encode_context(before) + ours.encode_query(after)
            expected = 1 if adds or "bos_token" in TEMPLATES[name] else 0
            assert ids.count(0) == expected
            assert ids[:1] == [0] * expected or not expected
            assert ours.decode(ids).removeprefix("<s>") == (whole + " It is").removeprefix("<s>")


DATED = (  # as Llama 3.1's has it
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}Today is {{ date_string }}. {{ messages[0]['content'] }}"
)


def test_a_date_that_a_template_shows_can_be_held(tmp_path: pathlib.Path) -> None:
    ours = tokenizer(tmp_path, DATED, adds=None)
    before, _ = ours.chat("The sky.\n", "What?", date_string="26 Jul 2024")
    assert str(before) == "<s>Today is 26 Jul 2024. The sky.\n"
    today = [datetime.date.today()]
    before, _ = ours.chat("The sky.\n", "What?")
    today.append(datetime.date.today())  # midnight may have passed
    assert str(before) in [f"<s>Today is {day.strftime('%d %b %Y')}. The sky.\n" for day in today]


def test_a_system_message_may_look_like_the_marker(tmp_path: pathlib.Path) -> None:
    ours = tokenizer(tmp_path, LLAMA3, adds=None)
    before, after = ours.chat("The sky.\n", "[[cut1]]", system="[[cut0]]")
    assert str(before).count("[[cut0]]") == str(after).count("[[cut1]]") == 1


SHOWS_SYSTEM = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize("spelled", ["<|END|>", "<|end|>", "<|End|>"])
def test_a_system_message_spells_no_special_token(tmp_path: pathlib.Path, spelled: str) -> None:
    """Nor what a normalizer makes one of."""
    save(tmp_path, adds=None)
    path = str(tmp_path / "tokenizer.json")
    file = tokenizers.Tokenizer.from_file(path)
    file.add_special_tokens([tokenizers.AddedToken("<|END|>", normalized=True)])
    file.normalizer = tokenizers.normalizers.Lowercase()
    file.save(path)
    (tmp_path / "chat_template.jinja").write_text(SHOWS_SYSTEM)
    ours, end = load(tmp_path), file.token_to_id("<|END|>")
    assert end in file.encode(f"x {spelled} y").ids
    before, after = ours.chat("The sky.\n", "What?", system=f"x {spelled} y")
    assert str(before + after) == f"system: x {spelled} y\nuser: The sky.\nWhat?\n"
    assert end not in ours.encode_context(before)
    (tmp_path / "chat_template.jinja").write_text(
        SHOWS_SYSTEM.replace("content", "content * (2 if m.role == 'system' else 1)")
    )
    with pytest.raises(ValueError, match="spells special tokens"):
        load(tmp_path).chat("The sky.\n", "What?", system=spelled)


def test_a_system_message_may_be_part_of_a_special_token(tmp_path: pathlib.Path) -> None:
    """The template writes that token."""
    template = "<s>{{ messages[-1].content }}"
    before, _ = tokenizer(tmp_path, template, adds=None).chat("The sky.\n", "What?", system="s")
    assert before.parts[0] == ("<s>", True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ bos_token }}Hello", "shows a user's message 0 times"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "2 times"),
        ("{{ messages[0]['content'][:12] }}", "shows a user's message 0 times"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] | length }}", "changes a user's"),
        ("{{ raise_exception('not like this') }}", "template fails: not like this"),
        ("{% if %}", "template fails"),
    ],
)
def test_templates_that_cannot_be_cut_are_refused(
    tmp_path: pathlib.Path, template: str | None, message: str
) -> None:
    ours = tokenizer(tmp_path, template, adds=None)
    with pytest.raises(ValueError, match=message):
        ours.chat("The sky is blue.\n", "What is blue?")


def sentencepiece(directory: pathlib.Path, scheme: str) -> Tokenizer:
    """A BPE tokenizer like Llama 2's: words begin with `▁`, bytes stand in for what is unknown."""
    letters = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!:'", "▁"]
    vocab = {t: i for i, t in enumerate(["<s>", "</s>", "<unk>"])}
    for token in [*(f"<0x{b:02X}>" for b in range(256)), *letters]:
        vocab[token] = len(vocab)
    merges = [
        ("▁", "t"),
        ("▁t", "h"),
        ("▁th", "e"),
        ("t", "h"),
        ("th", "e"),
        ("▁", "W"),
        ("W", "h"),
    ]
    merges += [("▁W", "h"), ("i", "s"), ("▁", "is"), ("▁", "▁")]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    if scheme == "normalizer":  # as Llama 2's own file has it
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(directory)
    return load(directory)


PAIRS = [
    ("The sky is blue.\n", "What is the sky?"),
    ("The sky is blue.\n", " What is the sky?"),
    ("the end.\n\n", "\nthe question"),
    ("the end:", "the"),
    ("naïve é\n", "é?</s>the"),
    ("the\n", ""),
]


@pytest.mark.parametrize("scheme", ["normalizer", "first", "always"])
def test_a_query_goes_on_where_the_context_ended(tmp_path: pathlib.Path, scheme: str) -> None:
    """The ids of both are those of the whole text; tokenised alone, a query would differ."""
    ours = sentencepiece(tmp_path, scheme)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    differ = 0
    for context, query in PAIRS:
        whole = theirs.encode(context + query, add_special_tokens=False).ids
        found = ours.encode_query(query, special=True)
        assert ours.encode_context(context) + found == whole
        differ += theirs.encode(query, add_special_tokens=False).ids != found
    assert differ >= 4


@pytest.mark.parametrize("scheme", ["never", "byte-level"])
def test_a_tokenizer_that_adds_nothing_is_used_as_it_is(
    tmp_path: pathlib.Path, scheme: str
) -> None:
    if scheme == "never":
        ours = sentencepiece(tmp_path, scheme)
    else:
        save(tmp_path, adds="<s> $A")
        ours = load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours._leads == []
    for _, query in PAIRS:
        expected = theirs(query, add_special_tokens=False)["input_ids"]
        assert ours.encode_query(query, special=True) == expected
