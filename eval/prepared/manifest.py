"""What a directory of prepared questions says of itself: manifest.json.

For each cell it has the settings that the cell's questions depend on. A run may so ask for some
of the tasks and lengths that were prepared, and more of them can be added.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import star_jax
from star_jax import json_files
from star_jax.eval.lists import items
from star_jax.eval.settings import DataConfig, EvalConfig
from star_jax.eval.suites import SUITES, Cell
from star_jax.json_files import shown
from star_jax.runs import records
from star_jax.runs.jsonl import CHAT, DATE
from star_jax.runs.places import check_regular
from star_jax.text.tokenizer import Tokenizer

_FORMAT = 2
_PACKAGES = ("tokenizers", "wonderwords")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a cell.

    settings: what its questions depend on. num_samples: how many of them are there, or are to be.
    sha256: of the file; None while it is being written.
    """

    settings: Mapping[str, Any]
    num_samples: int
    sha256: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.sha256 is not None


Manifest = dict[str, Entry]  # by the name of the cell's file


def file_of(cell: Cell) -> str:
    """The name of a cell's file, in the directory."""
    return os.path.join("all" if cell.length is None else str(cell.length), f"{cell.task}.jsonl")


def path_of(directory: str) -> str:
    return os.path.join(directory, "manifest.json")


def is_begun(directory: str) -> bool:
    """Whether there is anything in a directory; it need not be there.

    What a kill leaves of the first manifest is nothing.

    Raises:
      NotADirectoryError: it is something else.
    """
    torn = os.path.basename(records.part(path_of(directory)))
    return os.path.lexists(directory) and bool(set(os.listdir(directory)) - {torn})


def read(directory: str) -> Manifest:
    """The entries of a directory; none where there is no manifest.

    Raises:
      ValueError: it is no manifest of prepared questions.
    """
    path = path_of(directory)
    check_regular(path)
    if not os.path.exists(path):
        return {}
    try:
        manifest = json_files.read(path)
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format={shown(manifest['format'])}, and this version has {_FORMAT}")
        return {name: _entry(fields) for name, fields in manifest["cells"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: not a manifest of prepared questions ({e})") from e


def write(directory: str, manifest: Manifest) -> None:
    found = {
        "format": _FORMAT,
        "versions": {
            "star_jax": star_jax.__version__,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "cells": {name: dataclasses.asdict(entry) for name, entry in sorted(manifest.items())},
    }
    records.write_atomically(path_of(directory), json.dumps(found, indent=2) + "\n")


def settings_of(cell: Cell, config: EvalConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """All that the questions of a cell depend on, as JSON has it."""
    data = config.data
    length = "" if cell.length is None else str(cell.length)
    task = cell.task
    if not data.tasks or task not in items("data.tasks", data.tasks):
        task = re.sub(r"\[[^]]*\]$", "", task)  # a label, which is not of the task's name
    alone = dataclasses.replace(data, tasks=task, lengths=length)
    found = {
        "data.suite": data.suite,
        **SUITES[data.suite].settings(alone),
        "data.template": data.template,
        "chat_template": _of_chat(data, tokenizer),
        "max_new_tokens": cell.max_new_tokens,
        "tokenizer": tokenizer.digest,
    }
    return json.loads(json.dumps(found))


def check_fits(directory: str, name: str, entry: Entry, settings: Mapping[str, Any]) -> None:
    """Refuses questions that were prepared with other settings.

    Raises:
      ValueError: names the settings that differ.
    """
    differ = [
        f"{key[:99]} was {shown(entry.settings.get(key))} and is {shown(settings.get(key))}"
        for key in sorted(entry.settings.keys() | settings.keys())
        if entry.settings.get(key) != settings.get(key)
    ]
    if differ:
        raise ValueError(
            f"{os.path.join(directory, name)} was prepared with other settings: "
            f"{'; '.join(differ)}. Use another directory, or the same settings"
        )


def _entry(fields: Mapping[str, Any]) -> Entry:
    entry = Entry(**fields)
    if not isinstance(entry.settings, dict) or type(entry.num_samples) is not int:
        raise TypeError(f"{type(entry.settings)=}, {type(entry.num_samples)=}")
    if entry.is_whole and type(entry.sha256) is not str:
        raise TypeError(f"{type(entry.sha256)=}")
    return entry


def _of_chat(data: DataConfig, tokenizer: Tokenizer) -> str:
    """A hash of the model's chat template, by what it makes of a message; nothing if not asked."""
    if data.template != CHAT:
        return ""
    parts = [text.parts for text in tokenizer.chat("A", "B", date_string=DATE)]
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
