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
from star_jax.cache import compressed
from star_jax.eval.lists import check_known, items
from star_jax.eval.rows import FIELDS, MODELS_OWN, rows_at
from star_jax.eval.settings import (
    AttentionConfig,
    CacheConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)
from star_jax.eval.suites import SUITES
from star_jax.prefill.kinds import KINDS
from star_jax.prefill.streaming import Streaming
from star_jax.runs.drawing import sampling, stop_words

__all__ = [  # what config files and the runner take from here
    "AttentionConfig",
    "CacheConfig",
    "DataConfig",
    "EvalConfig",
    "GenerationConfig",
    "MeshConfig",
    "ModelConfig",
    "resolve",
]

# Fields that may be a number or a list, too: a config file need not write them as text.
_LISTS = {
    "kind",
    *("cache.dtype", "keep", "criterion"),
    *itertools.chain(*FIELDS.values()),
    *("tasks", "lengths", "stop"),
}


def resolve(config: object) -> EvalConfig:
    """Checks a configuration; returns it with relative paths made ones that exist.

    Raises:
      ValueError, NotImplementedError: what is wrong, and what to do.
    """
    config = _checked(config)
    if not config.output_dir:
        raise ValueError("output_dir is empty: say where the results go")
    _check_data(config.data)
    for length in SUITES[config.data.suite].lengths(config.data):
        rows_at(config.attention, length, config.cache)
    for name in ("keys", "sources", "haystack"):
        setattr(config.data, name, existing(getattr(config.data, name)))
    return config


def resolve_answering(config: object) -> EvalConfig:
    """As `resolve`, for commands that answer what they are asked: of model, attention and so on.

    `data` and `output_dir` are not looked at.
    """
    config = _checked(config)
    rows_at(config.attention, None, config.cache)
    return config


def _checked(config: object) -> EvalConfig:
    """A copy, of which all is checked that is neither data nor output."""
    getattr(config, "output_dir", None)  # of a file that did not load, it raises why
    if not isinstance(config, EvalConfig):
        raise ValueError("get_config() of the --config file must return star_jax's EvalConfig")
    _check_types(config)
    _check_paths(config)
    _check_model(config.model)
    _check_mesh(config.mesh)
    _check_attention(config.attention)
    for dtype in items("cache.dtype", config.cache.dtype):
        check_known("cache.dtype", dtype, (MODELS_OWN, *compressed.KINDS))
    if (tokens := config.generation.max_new_tokens) < 0:
        raise ValueError(
            f"generation.max_new_tokens={tokens} must be at least 1, or 0: the task's own"
        )
    stop_words(config.generation.stop)
    sampling(config.generation)
    config = copy.deepcopy(config)
    config.model.path = existing(config.model.path)
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
            if kind not in kinds or not _LISTS.isdisjoint((field.name, f"{prefix}{field.name}")):
                continue
            fits, name = kinds[kind]
            given = getattr(section, field.name)
            if not isinstance(given, fits) or isinstance(given, bool) != (kind == "bool"):
                raise ValueError(f"{prefix}{field.name}={given!r} must be {name}")


def _check_paths(config: EvalConfig) -> None:
    """Refuses what no file can be called, before anything opens one."""
    of_data = ("path", "sources", "haystack", "keys", "prepared")
    paths = {f"data.{name}": getattr(config.data, name) for name in of_data}
    for name in ("output_dir", "profile_dir", "compile_cache_dir"):
        paths[name] = getattr(config, name)
    for name, path in {**paths, "model.path": config.model.path}.items():
        if "\0" in path:
            raise ValueError(f"{name}={path!r} is not a path")


def _check_model(model: ModelConfig) -> None:
    if not model.path:
        raise ValueError("model.path is empty: give a checkpoint's directory or hub id")
    check_known("model.dtype", model.dtype, engine.DTYPES)


def _check_mesh(mesh: MeshConfig) -> None:
    for name in ("data", "context", "tensor"):
        if getattr(mesh, name) < 1:
            raise ValueError(f"mesh.{name}={getattr(mesh, name)} must be at least 1")


def _check_attention(attention: AttentionConfig) -> None:
    for kind in items("attention.kind", attention.kind):
        check_known("attention.kind", kind, (*KINDS, Streaming.name))
    if attention.implementation:
        check_known("attention.implementation", attention.implementation, sorted(IMPLEMENTATIONS))


def _check_data(data: DataConfig) -> None:
    check_known("data.suite", data.suite, sorted(SUITES))
    if data.num_samples < 1 and data.num_samples != -1:
        raise ValueError(f"data.num_samples={data.num_samples} must be at least 1, or -1: all")
    if data.batch_size < 0:
        raise ValueError(f"data.batch_size={data.batch_size} must be at least 1, or 0: mesh.data")
    if data.metric and data.suite != "jsonl":
        raise ValueError(
            f"data.metric={data.metric!r} is for data.suite='jsonl'; {data.suite} has its own"
        )
    if data.path and data.suite == "ruler":
        raise ValueError(
            f"data.path={data.path!r} is for the other suites; data.suite='ruler' generates its "
            "questions, and files that its scripts wrote are read by data.suite='jsonl'"
        )
    SUITES[data.suite].check(data)


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


def batch_size(config: EvalConfig) -> int:
    """How many questions are asked at once."""
    return config.data.batch_size or config.mesh.data


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
