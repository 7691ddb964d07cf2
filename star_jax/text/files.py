"""A tokenizer's files: `tokenizer.json` decides ids, `tokenizer_config.json` names its tokens."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from typing import Any

import tokenizers

from star_jax import json_files, quiet
from star_jax.printable import printable

# A directory with none of these has no tokenizer.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_LONG = 2**14  # characters, from which a text takes tens of milliseconds
_SOME = "The sky is blue."  # text that any tokenizer has tokens for

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # `bos_token` and so on


@dataclasses.dataclass(frozen=True)
class Files:
    """What the files say.

    file: the tokenizer, as `tokenizer.json` has it.
    names: the tokens that have a role: `bos_token` and so on.
    special: tokens that are special, those of the roles included.
    add_bos_token: whether a text gets a BOS; None where that is not said.
    chat_template: in Jinja's language; None where there is none.
    """

    file: tokenizers.Tokenizer
    names: dict[str, str]
    special: frozenset[str]
    add_bos_token: bool | None
    chat_template: str | None


def read(directory: str | os.PathLike[str]) -> Files | None:
    """The tokenizer of a local directory; None if it has no such files.

    Raises:
      ValueError: files are there and cannot be read, or say what cannot be.
    """
    directory = os.fspath(directory)
    if not any(json_files.is_there(os.path.join(directory, name)) for name in _FILES):
        return None
    config = _fields(directory, "tokenizer_config.json")
    if os.path.isfile(path := os.path.join(directory, "tokenizer.json")):
        file = _load(path)
        names = _names(_fields(directory, "special_tokens_map.json"), directory)
        named = _names(config, directory)
        for name in ("bos_token", "eos_token"):
            if names.get(name) and name in config and names[name] != named.get(name):
                warnings.warn(
                    f"star_jax: {directory}: {name} is {names[name]!r} in special_tokens_map.json, "
                    f"and {named.get(name)!r} in tokenizer_config.json, which is used",
                    stacklevel=2,
                )
        names = {name: token for name, token in names.items() if name not in config} | named
        template = _chat_template(directory, config)
    else:
        file, names, template = _convert(directory)
    file.no_truncation()  # a file may ask for it, and for a fixed length
    file.no_padding()
    special = _add_special(file, config, names, directory)
    add_bos_token = config.get("add_bos_token")
    if not isinstance(add_bos_token, bool | None):
        raise ValueError(
            f"{directory}/tokenizer_config.json: "
            f"add_bos_token={json_files.shown(add_bos_token)} must be a boolean"
        )
    return Files(file, names, special, add_bos_token, template)


def encode(file: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    """The tokens of a text, nothing added.

    Raises:
      ValueError: the tokenizer cannot take it; what a file says may fail on some texts only.
    """
    with _named("the tokenizer fails on a text"):
        if len(text) < _LONG:
            return file.encode(text, add_special_tokens=False)
        # A batch is encoded without the GIL: a long text does not keep other threads waiting.
        return file.encode_batch([text], add_special_tokens=False)[0]


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Makes one of the many errors of `tokenizers` a ValueError that begins with `what`."""
    try:
        yield
    except BaseException as e:  # bare Exceptions, and panics that are not even those
        if isinstance(e, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ValueError(f"{what} ({printable(str(e))})") from e


def _load(path: str) -> tokenizers.Tokenizer:
    with _named(f"{path}: unreadable tokenizer"):
        file = tokenizers.Tokenizer.from_file(path)
        file.encode("a")  # what is added to a text may not be there
    if getattr(file.model, "dropout", None):
        file.model.dropout = None  # of merges, for training: a text's ids would be drawn
    return file


def _convert(directory: str) -> tuple[tokenizers.Tokenizer, dict[str, str], str | None]:
    """What `transformers` makes of the other files, where there is no tokenizer.json."""
    from transformers import AutoTokenizer  # slow to import

    try:
        with quiet.transformers():
            found = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except Exception as e:
        raise ValueError(
            f"{directory}: unreadable tokenizer ({printable(' '.join(str(e).split()))})"
        ) from e
    if not getattr(found, "is_fast", False):
        raise ValueError(
            f"{directory} has no tokenizer.json, and transformers makes none of its other files "
            f"(class {type(found).__name__}): save one beside them"
        )
    file = tokenizers.Tokenizer.from_str(found.backend_tokenizer.to_str())
    unknown = file.token_to_id(str(found.unk_token))
    if all(i == unknown for i in file.encode(_SOME, add_special_tokens=False).ids):
        # A class that reads files of other names finds no vocabulary, and goes on without.
        raise ValueError(
            f"{directory}: without tokenizer.json, `transformers` makes a "
            f"{type(found).__name__} of {file.get_vocab_size()} tokens of it, which has none for "
            f"{_SOME!r}: save a tokenizer.json beside its files"
        )
    template = found.chat_template
    return file, dict(found.special_tokens_map), template if isinstance(template, str) else None


def _fields(directory: str, name: str) -> dict[str, Any]:
    """The fields of a JSON file; none where there is no such file."""
    path = os.path.join(directory, name)
    return json_files.read(path) if json_files.is_there(path) else {}


def _names(fields: dict[str, Any], directory: str) -> dict[str, str]:
    return {
        name: content
        for name in (f"{name}_token" for name in _NAMES)
        if (content := _content(fields.get(name), name, directory))
    }


def _content(token: Any, what: str, directory: str) -> str | None:
    """The text of a token, which is written as that or as a record."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str | None) or (content and not _is_text(content)):
        raise ValueError(f"{directory}/tokenizer_config.json: {printable(what)} is no token")
    return content


def _is_text(text: str) -> bool:
    """Whether a text is one: JSON can spell half a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _add_special(
    file: tokenizers.Tokenizer, config: dict[str, Any], names: dict[str, str], directory: str
) -> frozenset[str]:
    """All special tokens. Makes special what tokenizer_config.json calls so, if it is there."""
    given = config.get("added_tokens_decoder") or {}
    if not isinstance(given, dict):
        raise ValueError(f"{directory}/tokenizer_config.json: added_tokens_decoder is no object")
    special = {i for i, token in file.get_added_tokens_decoder().items() if token.special}
    for key, fields in sorted(given.items(), key=lambda item: _number(item[0], directory)):
        content = _content(fields, "added_tokens_decoder", directory)
        used = file.id_to_token(int(key))
        if content and used not in (None, content):
            warnings.warn(
                f"star_jax: {directory}: the id {int(key)} is {content!r} in "
                f"tokenizer_config.json, and {used!r} in tokenizer.json, which is used",
                stacklevel=4,
            )
        elif content and int(key) not in special:
            _add(file, content, int(key), fields, directory)
    there = {token.content for token in file.get_added_tokens_decoder().values() if token.special}
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    more = list(more.values()) if isinstance(more, dict) else more
    if not isinstance(more, list):
        raise ValueError(f"{directory}/tokenizer_config.json: additional_special_tokens is no list")
    listed = [_content(token, "additional_special_tokens", directory) for token in more]
    for content in [*names.values(), *listed]:
        # One that the vocabulary does not have would be beyond the model's: it is not added.
        if content and content not in there and file.token_to_id(content) is not None:
            file.add_special_tokens([tokenizers.AddedToken(content, normalized=False)])
            there.add(content)
    return frozenset(there)


def _number(key: str, directory: str) -> int:
    if not key.isdecimal() or len(key) > 10:
        raise ValueError(
            f"{directory}/tokenizer_config.json: added_tokens_decoder has "
            f"{json_files.shown(key)}, which is no id"
        )
    return int(key)


def _add(
    file: tokenizers.Tokenizer, content: str, number: int, fields: Any, directory: str
) -> None:
    flags = fields if isinstance(fields, dict) else {}
    before = file.token_to_id(content)
    if before is None:
        special = flags.get("special") is True
        options = {n: flags.get(n) is True for n in ("single_word", "lstrip", "rstrip")}
        normalized = flags.get("normalized", not special) is True
        token = tokenizers.AddedToken(content, normalized=normalized, special=special, **options)
        (file.add_special_tokens if special else file.add_tokens)([token])
        if file.token_to_id(content) != number:
            raise ValueError(
                f"{directory}/tokenizer_config.json: {content!r} has the id {number}, and the next "
                f"one that tokenizer.json leaves is {file.token_to_id(content)}"
            )
    elif before != number:
        warnings.warn(
            f"star_jax: {directory}: {content!r} has the id {number} in tokenizer_config.json, and "
            f"{before} in tokenizer.json, which is used",
            stacklevel=2,
        )
    elif flags.get("special") is True:
        file.add_special_tokens([tokenizers.AddedToken(content, normalized=False)])


def _chat_template(directory: str, config: dict[str, Any]) -> str | None:
    """The template of its own file, or else of tokenizer_config.json; the default of several."""
    path = os.path.join(directory, "chat_template.jinja")
    if json_files.is_there(path):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except ValueError as e:
            raise ValueError(f"{path} is not text ({e})") from e
    given = config.get("chat_template")
    if isinstance(given, list):
        named = [t for t in given if isinstance(t, dict) and t.get("name") == "default"]
        given = named[-1].get("template") if named else None
    if not isinstance(given, str | None) or (given and not _is_text(given)):
        warnings.warn(
            f"star_jax: {directory}/tokenizer_config.json: chat_template is no text, and not used",
            stacklevel=4,
        )
        return None
    return given or None
