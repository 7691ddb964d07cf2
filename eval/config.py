"""The configuration of an evaluation: how it is checked, and what its texts mean.

Overrides on the command line are set field by field on what the file returned, so nothing is
checked before `resolve`: a file may leave to the command line what it does not know.
"""

import copy
import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Sequence

import star_jax
from star_jax import engine
from star_jax.attention import IMPLEMENTATIONS
from star_jax.eval import ruler
from star_jax.eval.settings import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)
from star_jax.prefill.kinds import KINDS, Kind
from star_jax.runs import limits
from star_jax.runs.drawing import sampling, stop_words
from star_jax.runs.jsonl import CHAT

__all__ = [  # what config files and the runner take from here
    "AttentionConfig",
    "DataConfig",
    "EvalConfig",
    "GenerationConfig",
    "MeshConfig",
    "ModelConfig",
    "Row",
    "resolve",
]

SUITES = ("jsonl", "ruler")
_LONGEST = 40  # characters of a size
SOME_LENGTH = 2**24  # stands for L where only the questions tell
# Fields that may be a number or a list, too: a config file need not write them as text.
_LISTS = {"kind", "block_size", "anchor_size", "tasks", "lengths", "stop"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to encode contexts: a row of the result."""

    attention: Kind

    @property
    def name(self) -> str:
        """Its kind, and its sizes by the letters that they begin with: star_b1024_a512."""
        sizes = self.attention.sizes.items()
        return "_".join([self.attention.name, *(f"{name[0]}{size}" for name, size in sizes)])


def resolve(config: object) -> EvalConfig:
    """Checks a configuration; returns it with relative paths made ones that exist.

    Raises:
      ValueError, NotImplementedError: what is wrong, and what to do.
    """
    getattr(config, "output_dir", None)  # of a file that did not load, it raises why
    if not isinstance(config, EvalConfig):
        raise ValueError("get_config() of the --config file must return star_jax's EvalConfig")
    _check_types(config)
    if not config.output_dir:
        raise ValueError("output_dir is empty: say where the results go")
    _check_model(config.model)
    _check_mesh(config.mesh)
    _check_data(config.data)
    _check_attention(config.attention)
    for length in lengths(config.data):
        rows(config.attention, length or SOME_LENGTH)
    if (tokens := config.generation.max_new_tokens) < 0:
        raise ValueError(
            f"generation.max_new_tokens={tokens} must be at least 1, or 0: the task's own"
        )
    stop_words(config.generation.stop)
    sampling(config.generation)
    config = copy.deepcopy(config)
    config.model.path = existing(config.model.path)
    config.data.keys = existing(config.data.keys)
    return config


def _check_types(config: EvalConfig) -> None:
    """A config file may well have "4" for 4, or a number for a path."""
    kinds = {
        "int": (int, "an integer"),
        "float": (int | float, "a number"),
        "bool": (bool, "True or False"),
        "str": (str, "a text"),
    }
    sections = [(f"{f.name}.", getattr(config, f.name)) for f in dataclasses.fields(EvalConfig)]
    for field, (_, section) in zip(dataclasses.fields(EvalConfig), sections, strict=True):
        expected = field.type if isinstance(field.type, type) else object
        if dataclasses.is_dataclass(expected) and not isinstance(section, expected):
            raise ValueError(f"{field.name} is {section!r:.99}, and not a {expected.__name__}")
    for prefix, section in [("", config), *sections]:
        for field in dataclasses.fields(section) if dataclasses.is_dataclass(section) else ():
            kind = getattr(field.type, "__name__", "")
            if kind not in kinds or field.name in _LISTS:
                continue
            fits, name = kinds[kind]
            given = getattr(section, field.name)
            if not isinstance(given, fits) or isinstance(given, bool) != (kind == "bool"):
                raise ValueError(f"{prefix}{field.name}={given!r} must be {name}")


def _check_model(model: ModelConfig) -> None:
    if not model.path:
        raise ValueError("model.path is empty: give a checkpoint's directory or hub id")
    _one_of("model.dtype", model.dtype, engine.DTYPES)


def _check_mesh(mesh: MeshConfig) -> None:
    for name in ("data", "context", "tensor"):
        if getattr(mesh, name) < 1:
            raise ValueError(f"mesh.{name}={getattr(mesh, name)} must be at least 1")


def _check_attention(attention: AttentionConfig) -> None:
    for kind in items("attention.kind", attention.kind):
        _one_of("attention.kind", kind, tuple(KINDS))
    if attention.implementation:
        _one_of("attention.implementation", attention.implementation, sorted(IMPLEMENTATIONS))


def _check_data(data: DataConfig) -> None:
    _one_of("data.suite", data.suite, SUITES)
    if data.num_samples < 1 and data.num_samples != -1:
        raise ValueError(f"data.num_samples={data.num_samples} must be at least 1, or -1: all")
    if data.batch_size < 0:
        raise ValueError(f"data.batch_size={data.batch_size} must be at least 1, or 0: mesh.data")
    if data.suite == "jsonl":
        if not data.path:
            raise ValueError("data.path is empty: data.suite='jsonl' reads a file")
        for name in ("task", "length"):
            if f"{{{name}}}" in data.path and not getattr(data, f"{name}s"):
                raise ValueError(f"data.path={data.path!r} needs data.{name}s")
        _one_of("data.template", data.template, ("base", CHAT))
        return
    limits.check_samples("data.num_samples", data.num_samples)
    for task in tasks(data):
        _one_of("data.tasks", task, sorted(ruler.TASKS))
    _one_of("data.template", data.template, (*sorted(ruler.TEMPLATES), CHAT))
    if not data.lengths:
        raise ValueError("data.lengths is empty: give the lengths to generate, like 4096,8192")


def check_arguments(argv: Sequence[str]) -> None:
    """Refuses, before flags are parsed, a `--config` that is no file, and unknown overrides.

    absl and ml_collections refuse them too, but do not say as clearly what is wrong.
    """
    known = [
        f"{section.name}.{field.name}" if dataclasses.is_dataclass(section.type) else section.name
        for section in dataclasses.fields(EvalConfig)
        for field in _fields_or_itself(section)
    ]
    for argument in itertools.takewhile(lambda a: a != "--", argv[1:]):
        file = re.fullmatch(r"--?config=([^:]+)(?::.*)?", argument)
        if file and not os.path.isfile(file[1]):
            raise FileNotFoundError(f"--config={file[1]}: there is no such file")
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in known:
            close = difflib.get_close_matches(match[1], known, n=3, cutoff=0.4) or known
            raise ValueError(
                f"unknown override --config.{match[1]}; did you mean {' or '.join(close)}?"
            )


def rows(attention: AttentionConfig, length: int | None) -> tuple[Row, ...]:
    """The rows at a length; `L` in sizes stands for it. Rows that come out the same are one."""
    found: dict[Row, None] = {}
    for name in items("attention.kind", attention.kind):
        if KINDS[name].is_exact:
            found[Row(KINDS[name]())] = None
            continue
        for block in items("attention.block_size", attention.block_size):
            for anchor in items("attention.anchor_size", attention.anchor_size):
                sizes = _sizes(block, anchor, length)
                found[Row(KINDS[name](**sizes))] = None
    return tuple(found)


def has_sizes(attention: AttentionConfig) -> bool:
    """Whether any of the kinds has them."""
    return not all(KINDS[name].is_exact for name in items("attention.kind", attention.kind))


def needs_length(attention: AttentionConfig) -> bool:
    """Whether a size is a part of the length."""
    sizes = ("block_size", "anchor_size") if has_sizes(attention) else ()
    found = (items(name, getattr(attention, name)) for name in sizes)
    return any("L" in size for each in found for size in each)


def _sizes(block: str, anchor: str, length: int | None) -> dict[str, int]:
    at = "" if length is None else f" at length {length}"
    b = _size("attention.block_size", block, L=length)
    if b < 1:
        raise ValueError(f"attention.block_size={block!r} is {b} tokens{at}: it must be above 0")
    if b > limits.MOST_POSITIONS:
        raise ValueError(f"attention.block_size={block!r} is above {limits.MOST_POSITIONS} tokens")
    a = _size("attention.anchor_size", anchor, L=length, b=b)
    if a < 0:
        raise ValueError(f"attention.anchor_size={anchor!r} is {a}: it must be at least 0 (none)")
    if a > b:
        raise ValueError(
            f"attention.anchor_size={anchor!r} is {a} tokens, above the {b} tokens of "
            f"attention.block_size={block!r}{at}: the anchor is taken from the first block"
        )
    return {"block_size": b, "anchor_size": a}


def _size(field: str, text: str, **known: int | None) -> int:
    """A size: `1024`, or a part of something known, `L/4`, rounded down."""
    if len(text) > _LONGEST:  # of many more digits Python makes no number
        raise ValueError(f"{field}={text[:_LONGEST]!r}... is too long for a size")
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    match = re.fullmatch(r"([Lb])(?:/([1-9][0-9]*))?", text)
    if not match or match[1] not in known:
        parts = " or ".join(f"{name}/4" for name in known)
        raise ValueError(f"{field}={text!r} is not a size: give tokens, like 1024, or {parts}")
    whole = known[match[1]]
    if whole is None:
        raise ValueError(f"{field}={text!r} needs data.lengths, which says what L is")
    return whole // int(match[2] or 1)


def items(field: str, value: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """The items of a comma list, each once; a config file may also give a tuple or one number."""
    parts = value.split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int) else parts
    found = tuple(dict.fromkeys(str(part).strip() for part in parts))
    if not all(found) or not found:
        raise ValueError(f"{field}={value!r} has an empty item: write it like a,b,c")
    return found


def lengths(data: DataConfig) -> tuple[int | None, ...]:
    """The lengths in tokens; one None where the questions have none."""
    if not data.lengths or (data.suite == "jsonl" and "{length}" not in data.path):
        return (None,)
    found = items("data.lengths", data.lengths)
    for text in found:
        if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
            raise ValueError(f"data.lengths: {text!r} is not a number of tokens above 0")
        # Before sizes are made of it, whose errors would name them.
        if len(text) > 18 or int(text) > limits.MOST_POSITIONS:
            raise ValueError(f"data.lengths: {text[:18]} is above {limits.MOST_POSITIONS} tokens")
    return tuple(map(int, found))


def tasks(data: DataConfig) -> tuple[str, ...]:
    """The names of the tasks."""
    if data.tasks:
        return items("data.tasks", data.tasks)
    return tuple(ruler.TASKS) if data.suite == "ruler" else ()


def batch_size(config: EvalConfig) -> int:
    """How many questions are asked at once."""
    return config.data.batch_size or config.mesh.data


def num_samples(data: DataConfig, available: int | None) -> int:
    """How many samples of a task to take. `available`: how many it has; None: any number."""
    if data.num_samples == -1:
        return 500 if available is None else available
    return data.num_samples if available is None else min(data.num_samples, available)


def existing(path: str) -> str:
    """A relative path as seen from here or, if there is nothing, from the repository's root."""
    if path and not os.path.exists(path):
        root = os.path.dirname(os.path.dirname(os.path.abspath(star_jax.__file__)))
        if os.path.exists(os.path.join(root, path)):
            return os.path.join(root, path)
    return path


def _fields_or_itself(field: dataclasses.Field) -> Sequence[dataclasses.Field]:
    if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
        return dataclasses.fields(field.type)
    return [field]


def _one_of(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{field}: {value!r} is unknown; there is {', '.join(known)}")
