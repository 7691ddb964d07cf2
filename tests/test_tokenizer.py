"""The tokenizer: one BOS, none in queries, text as it is, and where a stretch of text lies."""

import pathlib

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

from star_jax.text.tokenizer import Prompt, Tokenizer

SPECIAL = ["<s>", "</s>", "<unk>"]


def save(directory: pathlib.Path, *, adds: str | None, named: bool = True) -> None:
    """A byte-level tokenizer; `adds` is what it puts around a text, in tokenizers' notation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "s"), ("Ġ", "is")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    if adds:
        backend.post_processor = processors.TemplateProcessing(
            single=adds, special_tokens=[(t, i) for i, t in enumerate(SPECIAL)]
        )
    if named:
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
        )
        fast.save_pretrained(directory)
    else:
        directory.mkdir(exist_ok=True)
        backend.save(str(directory / "tokenizer.json"))


def load(directory: pathlib.Path) -> Tokenizer:
    tokenizer = Tokenizer.from_pretrained(directory)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("adds", ["<s> $A", "<s> $A </s>"])
def test_a_context_has_exactly_one_bos_and_no_eos(
    tmp_path: pathlib.Path, adds: str, named: bool
) -> None:
    save(tmp_path, adds=adds, named=named)
    tokenizer = load(tmp_path)
    plain = tokenizer.encode_query("the grass is")
    assert 0 not in plain
    assert tokenizer.encode_context("the grass is") == [0, *plain]
    assert tokenizer.encode_context("<s>the grass is", special=True) == [0, *plain]
    assert 1 not in tokenizer.encode_context("the grass is")


def test_bos_is_not_added_if_the_tokenizer_adds_none(tmp_path: pathlib.Path) -> None:
    save(tmp_path, adds=None)
    tokenizer = load(tmp_path)
    assert tokenizer.encode_context("the") == tokenizer.encode_query("the")
    assert tokenizer.encode_context("<s>the", special=True) == [0, *tokenizer.encode_query("the")]


def test_text_survives_and_special_tokens_are_shown_or_not(tmp_path: pathlib.Path) -> None:
    save(tmp_path, adds="<s> $A")
    tokenizer = load(tmp_path)
    text = " It is there .\n\nIsn ' t it , naïve 中?  "
    ids = tokenizer.encode_query(text + "</s>", special=True)
    assert tokenizer.decode(ids) == text + "</s>"
    assert tokenizer.decode(tuple(ids), skip_special_tokens=True) == text
    assert tokenizer.encode_query("") == []


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_span_covers_the_text_and_no_more(tmp_path: pathlib.Path, begin: str) -> None:
    save(tmp_path, adds="<s> $A")
    tokenizer = load(tmp_path)
    shown = f"{begin}the </s> sky.\nthe needle is here.\nthe end"
    text = Prompt.template(begin) + shown.removeprefix(begin)
    start = shown.index("the needle")
    end = shown.index("here.") + len("here.")
    (span,) = tokenizer.spans(text, [(start, end)])
    assert span is not None
    ids = tokenizer.encode_context(text)
    assert tokenizer.decode(ids[span[0] : span[1]]) == "the needle is here."
    # A token that begins in the stretch's middle belongs to it as a whole.
    (inner,) = tokenizer.spans(text, [(start + 1, start + 2)])
    assert inner == (span[0], span[0] + 1)
    assert tokenizer.spans(text, [(end, end)]) == []


def test_no_tokenizer_files_is_none_and_broken_ones_are_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert Tokenizer.from_pretrained(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(ValueError, match="unreadable tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
